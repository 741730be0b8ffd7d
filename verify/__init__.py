"""Verify that a rewritten tree behaves as the original. The parent imports no torch; the workers do."""

from .report import Report, TargetReport
from .run import Options, verify

__all__ = ["Options", "Report", "TargetReport", "verify"]
