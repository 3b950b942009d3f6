"""Notes are added, read, and counted."""

import os

import pwal
from django.db import connection, transaction
from django.db.models import F
from django.http import Http404, JsonResponse

from .models import Note, Total


def note(request, key):
    if request.method == "PUT":
        return put(request, key)
    try:
        return JsonResponse({"text": Note.objects.get(key=key).text})
    except Note.DoesNotExist as error:
        raise Http404(key) from error


def put(request, key):
    """Adds a note once, however often it is sent, and counts it in the same transaction."""
    with transaction.atomic():
        _, added = Note.objects.get_or_create(key=key, defaults={"text": request.body.decode()})
        if added:
            Total.objects.filter(pk=1).update(notes=F("notes") + 1)
    return JsonResponse({"added": added})


def status(_request):
    """Who answers, and what its database is on."""
    Total.objects.count()
    return JsonResponse({"pid": os.getpid(), "status": pwal.status(connection)})
