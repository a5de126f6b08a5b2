"""The pages of the shop."""

from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404

from .models import Product


def product(_: HttpRequest, number: int) -> JsonResponse:
    """Shows a product with its description."""
    found = get_object_or_404(Product, pk=number)
    return JsonResponse({"name": found.name, "description": found.description})
