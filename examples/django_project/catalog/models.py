"""The models of the shop."""

from django.db import models


class Product(models.Model):
    """A product. A job writes its description."""

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
