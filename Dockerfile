# Exact versions; docs/deploy.md says how to pin the images by digest, too. No test builds these images.
FROM python:3.12.12-slim-bookworm AS fleet

RUN useradd --create-home --uid 10001 worker \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/sandbox
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[sandbox,metrics]"
COPY examples ./examples

USER 10001:10001
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
CMD ["mr-celery", "--help"]

# Flower beside the same Celery as the fleet's.
FROM fleet AS flower

USER root
RUN pip install --no-cache-dir "flower==2.0.1"
USER 10001:10001
CMD ["celery", "flower"]

# What is built where no target is named.
FROM fleet
