"""What the shop sells."""

from django.db import models


class Product(models.Model):
    """A product; its description is written by a job."""

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
