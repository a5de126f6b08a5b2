"""The version of mr-celery."""

__version__ = "0.2.0.dev1"
