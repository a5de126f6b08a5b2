FROM python:3.12-slim

RUN useradd --create-home --uid 10001 worker
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[sandbox]"
COPY examples ./examples

USER worker
ENV PYTHONUNBUFFERED=1
CMD ["mr-celery", "--help"]
