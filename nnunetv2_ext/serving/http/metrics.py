"""Figures of a server, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunetv2_ext.inference.reporting.report import resident_memory_mb

if TYPE_CHECKING:
    from nnunetv2_ext.serving.service import Service


def metrics_text(service: Service) -> str:
    """All figures; counters begin at 0 when the server starts, gauges say what is now."""
    counters = service.counters
    figures = [
        ("jobs_accepted_total", "counter", "Jobs that were accepted.", counters.accepted),
        ("jobs_done_total", "counter", "Jobs that were predicted.", counters.done),
        ("jobs_failed_total", "counter", "Jobs that could not be predicted.", counters.failed),
        ("predicting_seconds_total", "counter", "Time that jobs ran.", round(counters.seconds, 3)),
        ("lost_workers_total", "counter", "Processes that died while they predicted.", counters.lost_workers),
        ("model_loads_total", "counter", "Models that were read.", sum(counters.loads.values())),
        ("server_memory_bytes", "gauge", "Memory of the server.", int(resident_memory_mb() * 2**20)),
    ]
    lines = []
    for name, kind, meaning, value in figures:
        lines += [f"# HELP nnunetv2_ext_{name} {meaning}", f"# TYPE nnunetv2_ext_{name} {kind}"]
        lines.append(f"nnunetv2_ext_{name} {value}")
    lines += ["# HELP nnunetv2_ext_jobs Jobs on the disk.", "# TYPE nnunetv2_ext_jobs gauge"]
    lines += [f'nnunetv2_ext_jobs{{state="{state}"}} {number}' for state, number in service.store.counts().items()]
    return "\n".join(lines) + "\n"
