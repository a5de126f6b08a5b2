"""The tasks of the app. Only the decorator was added for mr-celery."""

from celery import shared_task

from mr_celery import modelreins_job

from .models import Product


@modelreins_job(
    "product.describe",
    arguments=lambda job: {"number": job.input["product"], "words": job.prompt},
)
@shared_task
def describe(number: int, words: str) -> str:
    product = Product.objects.get(pk=number)
    text = f"{product.name}: {words}"
    product.description = text
    product.save(update_fields=["description"])
    return text
