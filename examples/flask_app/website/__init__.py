"""A Flask application with Celery, as Flask's own documentation sets it up."""

from __future__ import annotations

import os

from celery import Celery, Task
from flask import Flask


def create_app() -> Flask:
    """The application, with its Celery application in `app.extensions["celery"]`."""
    app = Flask(__name__)
    app.config.from_mapping(
        GREETING="Dear customer",
        CELERY={
            "broker_url": os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
            "task_ignore_result": True,
            "modelreins_name": "website-worker",
        },
    )
    celery_init_app(app)
    return app


def celery_init_app(app: Flask) -> Celery:
    """A Celery application whose tasks run in the Flask application's context."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app: Celery = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app
