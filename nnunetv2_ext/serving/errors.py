"""Requests that are not served."""

from __future__ import annotations

from nnunetv2_ext.utilities.errors import UserError


class RefusedError(UserError):
    """A request that is not served; the message is for whoever sent it.

    Args:
        status: Of HTTP.
        message: One sentence: what was expected, what was found, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[RefusedError], tuple[int, str]]:
        """Comes from one process to another as it is."""
        return RefusedError, (self.status, str(self))
