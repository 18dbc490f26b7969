"""The exception that means "the user can mend this", and the sentence for what disks do not take."""

from __future__ import annotations

import errno
from pathlib import Path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class UserError(Exception):
    """Something in the user's input or set-up is wrong; the message is one sentence that says how to mend it.

    Commands print the message without a traceback and exit with code 2. The message states what was expected, what was
    found and what to do.
    """


def disk_error(error: OSError, target: Path | str | None = None) -> str | None:
    """The sentence for a disk that is full, fails or is read-only, or a name too long for it; else nothing.

    Args:
        error: What the system raised.
        target: What was to be written; the file that the error names by default.
    """
    if error.errno == errno.ENAMETOOLONG:
        longest = max(Path(str(error.filename)).parts, key=len)
        return f"Expected names that the file system takes, but {longest[:60]!r}... is too long; choose a shorter one."
    if error.errno not in _DISK_ERRORS:
        return None
    target = target or error.filename or "the results"
    return f"Expected to write {target}, but the disk does not take it ({error.strerror}); make room or choose another."
