"""Routing: which handler takes a job, and with which arguments."""

from .arguments import bind
from .decorator import Declaration, declared, modelreins_job
from .registry import Handler, Registry

__all__ = ["Declaration", "Handler", "Registry", "bind", "declared", "modelreins_job"]
