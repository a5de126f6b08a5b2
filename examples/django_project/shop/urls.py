"""The addresses of the pages: `/products/1` shows a product."""

from catalog.views import product
from django.urls import path

urlpatterns = [path("products/<int:number>", product)]
