"""A Flask application with the web hook that ends jobs. It needs the ledger's address, and the provider's secret."""

import hmac
import os
from base64 import b64decode

import pictures  # noqa: F401 - the Celery application with the settings and the handlers
from flask import Flask, request

from mr_celery import Artifact, LedgerUnavailable, Result, complete, fail

SECRET = os.environ.get("PROVIDER_SECRET", "for this machine only").encode()

flask_app = Flask(__name__)


@flask_app.post("/hooks/pictures/<ref>")
def picture_is_ready(ref: str) -> tuple[str, int]:
    """Ends the job. The provider repeats its call until the answer is 200 or 410."""
    signature = "sha256=" + hmac.new(SECRET, request.get_data(), "sha256").hexdigest()
    if not hmac.compare_digest(signature.encode(), request.headers.get("X-Signature", "").encode()):
        return "the signature is wrong", 403
    order = request.get_json()
    try:
        if order["status"] == "ready":
            image = Artifact(data=b64decode(order["image"]), filename="picture.png")
            answer = complete(ref, Result(f"order {order['id']}", artifacts=[image]))
        else:
            answer = fail(ref, order["error"])
    except LedgerUnavailable:
        return "the ledger is unreachable, call again", 503
    return answer.text, 200 if answer.reason in ("accepted", "completed") else 410
