"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(Exception):
    """Something in the user's input or set-up is wrong; the message is one sentence that says how to mend it.

    Commands print the message without a traceback and exit with code 2. The message states what was expected, what was
    found and what to do.
    """
