"""A Django project on pwal: what is special is `pwal.install()` and the options of the database."""

import os

import pwal

pwal.install()  # the settings are read before the first connection

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["NOTES_DB"],
        # One connection for each thread, kept: opening a database costs more than a request.
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            # Since Django 5.1.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}
if "NOTES_CONN_MAX_AGE" in os.environ:
    DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ["NOTES_CONN_MAX_AGE"])

ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["notes"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
ROOT_URLCONF = "notes.urls"
SECRET_KEY = os.environ.get("NOTES_SECRET_KEY", "an example keeps no secrets")
WSGI_APPLICATION = "notes.wsgi.application"
