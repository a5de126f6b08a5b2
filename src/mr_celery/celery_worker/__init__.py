"""The part inside a Celery worker: runs handlers, renews leases, and reports failures."""
