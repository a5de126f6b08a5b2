"""Shared by the tests: servers on free ports, and Celery workers and bridges as processes."""
