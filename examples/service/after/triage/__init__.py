"""Support-ticket triage: which queue a ticket belongs to, and how sure we are."""

from .model import Triage
from .server import answer

__all__ = ["Triage", "answer"]
