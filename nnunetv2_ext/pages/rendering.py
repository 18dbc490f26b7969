"""The one way to write a page: a template of this room, in which everything that is put in is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_ext.utilities.files import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(template: str, target: Path | str, **content: Any) -> None:
    """Fills a template and writes it.

    Args:
        template: Name of a file in ``templates/`` that extends ``page.html``.
        target: An ``.html`` file.
        **content: What the template names; text is escaped, but for `markupsafe.Markup`.

    Raises:
        UserError: The file cannot be written.
    """
    page = fill(template, **content)
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")


def fill(template: str, **content: Any) -> str:
    """The page that `write_page` writes."""
    return _environment().get_template(template).render(content) + "\n"


def decimals(value: float, places: int = 3) -> str:
    """A number as pages show it; nothing for NaN, which is no number of anything."""
    return "" if value != value else f"{value:.{places}f}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nnunetv2_ext.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimals"] = decimals
    return environment
