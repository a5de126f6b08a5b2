"""Routing: which handler takes a job, and with which arguments."""

from .arguments import bind
from .decorator import RISK_TIERS, Declaration, declared, modelreins_job
from .registry import Handler, Registry

__all__ = ["RISK_TIERS", "Declaration", "Handler", "Registry", "bind", "declared", "modelreins_job"]
