"""An app's tasks.py: the decorator is all that is added."""

from celery import shared_task

from mr_celery import modelreins_job


@modelreins_job("product.describe")
@shared_task
def describe(prompt: str) -> str:
    return f"A description of {prompt}"
