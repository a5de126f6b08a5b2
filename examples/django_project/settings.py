"""What a Django project adds to its settings. The token stays in the environment: MODELREINS_TOKEN."""

CELERY_BROKER_URL = "redis://localhost:6379/0"

CELERY_MODELREINS_URL = "https://app.modelreins.com"
CELERY_MODELREINS_NAME = "shop-worker"
CELERY_MODELREINS_LEDGER_URL = "redis://localhost:6379/1"
