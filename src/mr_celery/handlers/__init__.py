"""Handlers: declaring tasks for jobs, choosing the one for a job, and filling its arguments."""

from .arguments import Arguments, bind, filled
from .decorator import RISK_TIERS, modelreins_job
from .registry import (
    Declaration,
    Handler,
    MatchRaised,
    Registry,
    declared,
    handlers_of,
    import_failure,
    import_tasks,
    load_registry,
    no_handler,
)

__all__ = [
    "RISK_TIERS",
    "Arguments",
    "Declaration",
    "Handler",
    "MatchRaised",
    "Registry",
    "bind",
    "declared",
    "filled",
    "handlers_of",
    "import_failure",
    "import_tasks",
    "load_registry",
    "modelreins_job",
    "no_handler",
]
