"""The endpoints of a server, and their description by OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_ext import __version__
from nnunetv2_ext.serving.http.answers import NOTICE


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        method: Of HTTP.
        path: With names in braces.
        call: What serves it.
        summary: What it does, in one sentence.
        query: Name -> meaning of what may follow the path.
        form: Name -> meaning of the parts of a form; ``file`` and ``files`` are files, and may be there several times.
        answers: Content type where all is well.
        status: Of HTTP, then.
    """

    method: str
    path: str
    call: Callable[..., Any]
    summary: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    answers: str = "application/json"
    status: int = 200


def description_of(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The endpoints by OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    error = {
        "type": "object",
        "required": ["error", "notice"],
        "properties": {"error": {"type": "string"}, "notice": {"const": NOTICE}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "nnUNetv2_ext_serve", "version": __version__, "description": NOTICE},
        "paths": paths,
        "components": {
            "schemas": {"Error": error},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    text = {"type": "string"}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"{(\w+)", endpoint.path)
    ] + [
        {"name": name, "in": "query", "description": meaning, "schema": text}
        for name, meaning in endpoint.query.items()
    ]
    schema = {} if endpoint.answers == "application/json" else {"schema": text}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            str(endpoint.status): {"description": "All is well.", "content": {endpoint.answers: schema}},
            "4XX": {
                "description": "It is not, for the reason in `error`.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if endpoint.form:
        parts = {name: {"description": meaning, **_part(name)} for name, meaning in endpoint.form.items()}
        content = {"schema": {"type": "object", "properties": parts}}
        operation["requestBody"] = {"content": {"multipart/form-data": content}}
    return operation


def _part(name: str) -> dict[str, Any]:
    if name in ("file", "files"):
        return {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
    return {"type": "array", "items": {"type": "string"}} if name == "output_type" else {"type": "string"}
