"""The one way to say no to what a user asked: a message, before any work."""

from __future__ import annotations


class Refusal(Exception):
    """What was asked cannot be done; the message says why and what would do. The command exits with 2."""
