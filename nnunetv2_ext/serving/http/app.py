"""The server's HTTP: requests in, one call to the service, answers out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from nnunetv2_ext import __version__
from nnunetv2_ext.images.label_maps import OUTPUT_TYPES
from nnunetv2_ext.serving.errors import RefusedError
from nnunetv2_ext.serving.http.access import Gate
from nnunetv2_ext.serving.http.answers import answer, refusal
from nnunetv2_ext.serving.http.forms import files_of, one_text, read_form, texts
from nnunetv2_ext.serving.http.metrics import metrics_text
from nnunetv2_ext.serving.http.openapi import Endpoint, description_of
from nnunetv2_ext.serving.jobs import Job
from nnunetv2_ext.serving.service import Service
from nnunetv2_ext.serving.worker import LABEL_MAP, PREVIEW, SEVERAL, STATISTICS
from nnunetv2_ext.utilities.errors import UserError, disk_error

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Scans that are taken in at the same time; they wait for each other anyway where they are read.
_AT_ONCE = 4
_MOST_JOBS_LISTED = 1000
_FIELDS = {"file", "model", "output_type", "preview"}


class Application:
    """The endpoints of a service.

    Args:
        service: What they call.
        token: See `Gate`.
        hosts: Likewise.
        more: Further endpoints.
    """

    def __init__(
        self,
        service: Service,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        more: Callable[[Application], list[Endpoint]] = lambda application: [],
    ) -> None:
        self.service = service
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self.endpoints = [*self._own_endpoints(), *more(self)]
        handlers: dict[Any, Callable[[Request, Exception], Response | Awaitable[Response]]] = {
            HTTPException: _refuse_as_starlette,
            ClientDisconnect: _refuse_half_a_request,
            UserError: self._refuse,
            OSError: self._refuse_for_the_disk,
            Exception: self._tell_defect,
        }
        routes = [Route(each.path, each.call, methods=[each.method]) for each in self.endpoints]
        application = Starlette(routes=routes, exception_handlers=handlers)
        application.router.redirect_slashes = False
        self.asgi = Gate(application, token, hosts, service.limits.upload_bytes)

    async def take_in(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Calls what takes a scan in, beside the loop and few at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *arguments, **named))

    def _own_endpoints(self) -> list[Endpoint]:
        types = f"`{'`, `'.join(OUTPUT_TYPES)}`"
        return [
            Endpoint("GET", "/health", self._health, "Whether jobs are taken up; needs no token."),
            Endpoint("GET", "/metrics", self._metrics, "Figures for Prometheus.", answers="text/plain"),
            Endpoint("GET", "/openapi.json", self._description, "This description."),
            Endpoint("GET", "/models", self._models, "The models: channels of their images, classes, checkpoints."),
            Endpoint(
                "POST",
                "/jobs",
                self._accept,
                "Accepts a scan: NIfTI or NRRD, one file per channel, or a ZIP archive of a DICOM series.",
                form={
                    "file": "the scan; several times for several channels",
                    "model": "name of a model; may be left out where there is one",
                    "output_type": f"format of the label map, of {types}; several times for several; "
                    f"`{OUTPUT_TYPES[0]}` by default",
                    "preview": "`true` for a picture",
                },
                status=202,
            ),
            Endpoint("GET", "/jobs", self._jobs, f"The last {_MOST_JOBS_LISTED} jobs."),
            Endpoint("GET", "/jobs/{job}", self._job, "State and progress of a job."),
            Endpoint("DELETE", "/jobs/{job}", self._remove, "Forgets a job that does not run, and its results."),
            Endpoint(
                "GET",
                "/jobs/{job}/result",
                self._result,
                "The label map; a ZIP archive of them for models with several.",
                query={"output_type": f"one of those that the job was given, of {types}; its first by default"},
                answers="application/octet-stream",
            ),
            Endpoint("GET", "/jobs/{job}/statistics", self._statistics, "Volume and intensity of every class."),
            Endpoint("GET", "/jobs/{job}/preview", self._preview, "The picture.", answers="image/png"),
        ]

    async def _health(self, request: Request) -> Response:
        works = self.service.is_working
        return answer({"status": "ok" if works else "failing", "version": __version__}, 200 if works else 503)

    def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(metrics_text(self.service))

    async def _description(self, request: Request) -> Response:
        return answer(description_of(self.endpoints))

    async def _models(self, request: Request) -> Response:
        models = {
            name: {
                "channels": list(model.channels),
                "classes": {
                    source: {text: value for value, text in names.items()} for source, names in model.maps.items()
                },
                "checkpoints": model.checkpoints,
            }
            for name, model in self.service.models.items()
        }
        return answer({"models": models, "output_types": list(OUTPUT_TYPES)})

    async def _accept(self, request: Request) -> Response:
        names = list(self.service.models)
        async with read_form(request) as form:
            if strange := sorted(set(form) - _FIELDS):
                raise RefusedError(
                    400, f"Expected the parts {', '.join(sorted(_FIELDS))}, but got {strange[0][:100]!r}."
                )
            files, model = files_of(form), one_text(form, "model", names[0] if len(names) == 1 else "")
            preview = one_text(form, "preview", "false")
            if preview not in ("true", "false"):
                raise RefusedError(400, f"Expected true or false as preview, but got {preview[:100]!r}.")
            accept = partial(self.service.accept, files, model, texts(form, "output_type"))
            job = await self.take_in(accept, preview=preview == "true")
        return answer(self.content(job), 202, {"Location": f"/jobs/{job.id}"})

    def _jobs(self, request: Request) -> Response:
        return answer({"jobs": [self.content(job) for job in self.service.store.latest(_MOST_JOBS_LISTED)]})

    def _job(self, request: Request) -> Response:
        return answer(self.content(self._asked_for(request)))

    def _remove(self, request: Request) -> Response:
        job = self._asked_for(request)
        self.service.remove(job)
        return answer({"removed": job.id})

    def _result(self, request: Request) -> Response:
        job = self._asked_for(request)
        kind = request.query_params.get("output_type", job.output_types[0])
        if kind not in job.output_types:
            raise RefusedError(
                404, f"Expected one of {', '.join(job.output_types)} as output_type, but got {kind[:100]!r}."
            )
        file = self.service.result(job, f"{LABEL_MAP}.{kind}", f"{LABEL_MAP}.{kind}{SEVERAL}")
        return sent(file, "application/octet-stream", f"{job.id}{file.name.removeprefix(LABEL_MAP)}")

    def _statistics(self, request: Request) -> Response:
        job = self._asked_for(request)
        content = json.loads(self.service.result(job, STATISTICS).read_bytes())
        return answer({"id": job.id, "classes": content["classes"]})

    def _preview(self, request: Request) -> Response:
        job = self._asked_for(request)
        return sent(self.service.result(job, PREVIEW), "image/png", f"{job.id}.png")

    def _asked_for(self, request: Request) -> Job:
        return self.service.job(request.path_params["job"])

    def content(self, job: Job) -> dict[str, Any]:
        """What a job says of itself."""
        content: dict[str, Any] = {
            "id": job.id,
            "model": job.model,
            "output_types": list(job.output_types),
            "state": job.state,
            "progress": round(job.progress, 3),
            **{name: _time(getattr(job, name)) for name in ("created", "started", "ended")},
        }
        if job.state == "waiting":
            content["before_it"] = self.service.store.before(job)
        if job.error is not None:
            content["error"] = job.error
        if job.state == "done":
            own = f"/jobs/{job.id}"
            content["label_maps"] = {kind: f"{own}/result?output_type={kind}" for kind in job.output_types}
            content["statistics"] = f"{own}/statistics"
            content |= {"preview": f"{own}/preview"} if job.preview else {}
        return content

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error.__cause__, OSError):
            return await self._refuse_for_the_disk(request, error.__cause__)
        return refusal(error.status if isinstance(error, RefusedError) else 422, self.service.told(error))

    async def _refuse_for_the_disk(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, OSError) or disk_error(error) is None:
            return await self._tell_defect(request, error)
        _logger.error("%s", disk_error(error))
        return refusal(507, "Expected room on the disk of this server, but there is none; try again later.")

    async def _tell_defect(self, request: Request, error: Exception) -> Response:
        _logger.error("A request failed:", exc_info=error)
        return refusal(500, "This request met a defect of the server, whose log says more.")


async def _refuse_half_a_request(request: Request, error: Exception) -> Response:
    return refusal(400, "Expected the whole request, but the connection ended before.")


async def _refuse_as_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    return refusal(error.status_code, f"{error.detail}; see /openapi.json.", headers)


def sent(file: Path, kind: str, name: str) -> FileResponse:
    """A file as an answer, under a name of ours."""
    return FileResponse(file, media_type=kind, filename=name)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
