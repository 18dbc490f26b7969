"""The part of MONAI Label's protocol that 3D Slicer's module MONAILabel uses to predict.

``GET /info/``, ``PUT /session/`` (a scan, which is sent once for several predictions) and ``POST /infer/{model}``,
which answers when the label map is there. Slicer gives the i-th name of a model to the integer i + 1, whatever the
model paints: label maps are renumbered.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from nnunetv2_ext import __version__
from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.http.answers import NOTICE, answer
from nnunetv2_ext.serving.http.forms import files_of, one_text, read_form
from nnunetv2_ext.serving.http.openapi import Endpoint
from nnunetv2_ext.serving.jobs import Job
from nnunetv2_ext.serving.worker import LABEL_MAP, ModelDescription
from nnunetv2_ext.utilities.files import parse_json

if TYPE_CHECKING:
    from nnunetv2_ext.serving.http.app import Application

_FORMAT, _RENUMBERED = "nrrd", "renumbered.nrrd"
_SECONDS_BETWEEN_LOOKS = 0.1


def monai_label_endpoints(application: Application) -> list[Endpoint]:
    """The protocol's calls, served by an application's service."""
    protocol = _Protocol(application)
    return [
        Endpoint("GET", "/info/", protocol.info, "MONAI Label: the models."),
        Endpoint(
            "PUT",
            "/session/",
            protocol.create,
            "MONAI Label: keeps a scan.",
            form={"files": "one per channel, or a ZIP"},
        ),
        Endpoint("GET", "/session/{session}", protocol.find, "MONAI Label: whether a scan is still kept."),
        Endpoint("DELETE", "/session/{session}", protocol.remove, "MONAI Label: forgets a scan."),
        Endpoint(
            "POST",
            "/infer/{model}",
            protocol.infer,
            "MONAI Label: predicts a scan and answers with its label map.",
            query={"session_id": "of a scan that is kept", "image": "not used"},
            form={"params": "JSON, not used", "file": "a scan, where none is kept"},
            answers="multipart/form-data",
        ),
    ]


class _Protocol:
    def __init__(self, application: Application) -> None:
        self._application, self._service = application, application.service

    async def info(self, request: Request) -> Response:
        models = {name: model for name, model in self._service.models.items() if len(model.maps) == 1}
        content = {
            name: {
                "type": "segmentation",
                "labels": _numbered(model),
                "dimension": 2 if model.admits_2d else 3,
                "description": f"{', '.join(model.channels)}. {NOTICE}",
                "config": {},
            }
            for name, model in models.items()
        }
        labels = list(dict.fromkeys(label for model in models.values() for label in _numbered(model)))
        nothing: dict[str, Any] = {
            name: {} for name in ("trainers", "strategies", "scoring", "train_stats", "datastore")
        }
        about = {"name": "nnunetv2-ext", "description": NOTICE, "version": __version__}
        return answer({**about, "labels": labels, "models": content, **nothing})

    async def create(self, request: Request) -> Response:
        async with read_form(request) as form:
            session = await self._application.take_in(self._service.intake.keep, files_of(form, "files"))
        return answer({"session_id": session, "session_info": {"name": session}})

    def find(self, request: Request) -> Response:
        session = request.path_params["session"]
        self._service.intake.kept(session)
        return answer({"name": session})

    def remove(self, request: Request) -> Response:
        session = request.path_params["session"]
        self._service.intake.forget(session)
        return answer({"name": session})

    async def infer(self, request: Request) -> Response:
        model = self._service.model(request.path_params["model"])
        if len(model.maps) != 1:
            raise RefusedError(422, f"Expected a model of one label map, but {model.name} has several; POST to /jobs.")
        async with read_form(request) as form:
            parameters = parse_json(one_text(form, "params", "{}"), "the part 'params'")
            if not isinstance(parameters, dict):
                raise RefusedError(400, "Expected a JSON object as the part 'params', but got something else.")
            if form.getlist("label"):
                raise RefusedError(422, "Expected no part 'label': models of nnU-Net take no scribbles; leave it out.")
            accept = partial(self._service.accept, model=model.name, output_types=[_FORMAT])
            if session := request.query_params.get("session_id"):
                with ExitStack() as opened:
                    kept = [opened.enter_context(open(file, "rb")) for file in self._service.intake.kept(session)]
                    job = await self._application.take_in(accept, kept)
            else:
                job = await self._application.take_in(accept, files_of(form))
        while not job.has_ended:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            job = await asyncio.to_thread(self._service.job, job.id)
        if job.state == "failed":
            raise RefusedError(422, job.error or "The scan could not be predicted.")
        content = await self._application.take_in(self._label_map, job, model)
        return _form({"params": json.dumps({"label_names": _numbered(model), "notice": NOTICE})}, content)

    def _label_map(self, job: Job, model: ModelDescription) -> bytes:
        file = self._service.result(job, f"{LABEL_MAP}.{_FORMAT}")
        (names,) = model.maps.values()
        if list(names) != list(range(1, len(names) + 1)):
            renumbered = file.with_name(_RENUMBERED)
            self._service.intake.check(renumber, file, names, renumbered)
            file = renumbered
        return file.read_bytes()


def renumber(source: Path, names: Mapping[int, str], target: Path) -> None:
    """Writes a label map whose integers are 1, 2, ... in the order of ``names``.

    Raises:
        UserError: It cannot be read or written.
    """
    volume = read_volume(source)
    table = np.zeros(max(names, default=0) + 1, dtype=np.uint32)
    table[list(names)] = range(1, len(names) + 1)
    write_label_map(table[volume.array], dict(enumerate(names.values(), start=1)), volume.grid, target)


def _numbered(model: ModelDescription) -> dict[str, int]:
    (names,) = model.maps.values()
    return {name: number for number, name in enumerate(names.values(), start=1)}


def _form(texts: Mapping[str, str], label_map: bytes) -> Response:
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in texts.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{LABEL_MAP}.{_FORMAT}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = "".join(parts).encode() + label_map + f"\r\n--{boundary}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")
