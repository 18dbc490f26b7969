"""Optional libraries: the extras of this package's pyproject.toml."""

from __future__ import annotations

from importlib.util import find_spec

from nnunetv2_ext.utilities.errors import UserError


def require_extra(extra: str, purpose: str, *libraries: str) -> None:
    """Refuses to go on without the libraries of an extra; imports none of them.

    Args:
        extra: Name of the extra, as in ``pip install 'nnunetv2-ext[monai]'``.
        purpose: What needs it: the beginning of the sentence.
        libraries: Names to import; the extra's own name by default.

    Raises:
        UserError: A library is not installed.
    """
    missing = [library for library in libraries or (extra,) if find_spec(library) is None]
    if missing:
        names = f"{missing[0]}, which is" if len(missing) == 1 else f"{', '.join(missing)}, which are"
        raise UserError(f"{purpose} needs {names} not installed; run: pip install 'nnunetv2-ext[{extra}]'.")
