"""What the tests share: servers on free ports, and Celery workers and bridges as processes."""
