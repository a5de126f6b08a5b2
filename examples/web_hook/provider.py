"""Stands in for an image provider that calls a web hook, with a signature, until it gets an answer.

A prompt with "broken" fails. The picture of a prompt with "at once" is ready before the order is answered.
"""

import hmac
import json
import os
import time
from base64 import b64encode
from dataclasses import asdict, dataclass, field
from threading import Timer
from typing import Any

import requests
from flask import Flask, request

from mr_celery.demo.picture import paint

SECRET = os.environ.get("PROVIDER_SECRET", "for this machine only").encode()
SECONDS = float(os.environ.get("PROVIDER_SECONDS", "3"))  # what a picture takes
PAUSES = (1, 2, 4, 8, 16, 32, 64)  # seconds until a call is repeated


@dataclass
class Order:
    """A picture to make, the address to call, and the answers of that address; 0 stands for none."""

    id: int
    prompt: str
    hook: str
    answers: list[int] = field(default_factory=list)

    def deliver(self) -> None:
        """Call the hook until it answers with 2xx or 410."""
        for pause in PAUSES:
            self.call()
            if self.answers[-1] // 100 == 2 or self.answers[-1] == 410:
                break
            time.sleep(pause)

    def call(self) -> None:
        """Call the hook once."""
        made: dict[str, Any] = {"status": "ready", "image": b64encode(paint(self.prompt)).decode()}
        if "broken" in self.prompt:
            made = {"status": "failed", "error": "the provider cannot paint this"}
        body = json.dumps({"id": self.id, **made}).encode()
        signature = "sha256=" + hmac.new(SECRET, body, "sha256").hexdigest()
        headers = {"Content-Type": "application/json", "X-Signature": signature}
        try:
            self.answers.append(requests.post(self.hook, data=body, headers=headers, timeout=60).status_code)
        except requests.RequestException:
            self.answers.append(0)


orders: list[Order] = []
flask_app = Flask(__name__)


@flask_app.post("/orders")
def order() -> tuple[dict[str, int], int]:
    """Takes an order. The same hook means the same order: a caller that got no answer may repeat its request."""
    asked = request.get_json()
    ordered = next((each for each in orders if each.hook == asked["hook"]), None)
    if ordered is None:
        ordered = Order(len(orders) + 1, asked["prompt"], asked["hook"])
        orders.append(ordered)
        if "at once" in ordered.prompt:
            ordered.call()
        else:
            deliver_after(SECONDS, ordered)
    return {"id": ordered.id}, 201


@flask_app.get("/orders")
def list_orders() -> list[dict[str, Any]]:
    """All orders, oldest first."""
    return [asdict(each) for each in orders]


@flask_app.post("/orders/<int:number>/deliver")
def deliver_again(number: int) -> tuple[str, int]:
    """Calls the hook of an order again, as the button on a provider's page does."""
    deliver_after(0, orders[number - 1])
    return "", 202


def deliver_after(seconds: float, ordered: Order) -> None:
    timer = Timer(seconds, ordered.deliver)
    timer.daemon = True
    timer.start()
