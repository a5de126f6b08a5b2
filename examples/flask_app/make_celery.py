"""What `celery -A make_celery` loads: the Celery application of the Flask application, and its tasks."""

from website import create_app, tasks

flask_app = create_app()
celery_app = flask_app.extensions["celery"]

__all__ = ["celery_app", "flask_app", "tasks"]
