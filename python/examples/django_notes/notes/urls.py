from django.urls import path

from . import views

urlpatterns = [
    path("notes/<str:key>", views.note),
    path("status", views.status),
]
