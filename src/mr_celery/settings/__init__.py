"""Settings: their names, defaults and limits, and the worker names that they configure."""

from .settings import (
    DEFAULT_URL,
    Settings,
    admin_token,
    api_key,
    is_default,
    load,
    names_ledger,
    options,
    read_http_token,
    read_token,
    require,
    secret_settings,
)

__all__ = [
    "DEFAULT_URL",
    "Settings",
    "admin_token",
    "api_key",
    "is_default",
    "load",
    "names_ledger",
    "options",
    "read_http_token",
    "read_token",
    "require",
    "secret_settings",
]
