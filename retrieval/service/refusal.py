"""What a caller is told who asked for something that cannot be done."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not answered: the HTTP status, and one line for the caller that names no inner thing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)  # both, so that it can be sent from one process to another
        self.status, self.reason = status, reason
