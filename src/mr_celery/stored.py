"""Stored values that another version of mr-celery may have written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def known_fields(dataclass: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields that a dataclass has. A newer version may have added others, which are ignored."""
    return {each.name: stored[each.name] for each in fields(dataclass) if each.name in stored}
