"""Notes, and how many there are."""

from django.db import models


class Note(models.Model):
    key = models.CharField(max_length=100, unique=True)
    text = models.TextField()


class Total(models.Model):
    notes = models.IntegerField(default=0)
