"""What every answer of the server has in common."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

NOTICE = "Research use only; not a medical device."


def answer(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """JSON with the notice."""
    return JSONResponse({**content, "notice": NOTICE}, status, headers)


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """JSON that says why not."""
    return answer({"error": sentence}, status, headers)
