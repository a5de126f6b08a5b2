"""The project's pages: `/products/1` tells of a product."""

from catalog.views import product
from django.urls import path

urlpatterns = [path("products/<int:number>", product)]
