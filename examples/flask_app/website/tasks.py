"""The tasks of the application. Only the decorator was added for mr-celery."""

from celery import shared_task
from flask import current_app

from mr_celery import modelreins_job


@modelreins_job("letter.write")
@shared_task
def letter(prompt: str) -> str:
    return f"{current_app.config['GREETING']},\n\n{prompt}"
