"""The settings of the project, without the token: it is read from MODELREINS_TOKEN in the environment."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for-development-only")
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["catalog"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
TIME_ZONE = "UTC"  # Django's default is America/Chicago, also for the logs of Celery
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DB", BASE_DIR / "db.sqlite3"),
    }
}

CELERY_BROKER_URL = "redis://localhost:6379/0"
CELERY_MODELREINS_URL = "https://app.modelreins.com"
CELERY_MODELREINS_NAME = "shop-worker"
CELERY_MODELREINS_LEDGER_URL = "redis://localhost:6379/1"
