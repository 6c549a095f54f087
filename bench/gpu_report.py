"""Results of the suite `gpu`: the report of the suite `cpu`, and what that has no words for."""

from __future__ import annotations

from typing import TypedDict

from bench.report import Report


class Gpu(TypedDict):
    """The GPU that was measured."""

    name: str
    capability: str
    memory_bytes: int
    cuda: str
    driver: str | None


class GpuReport(Report):
    """A whole run, as its JSON file holds it.

    `device` says "cuda", or that nothing was measured.
    """

    device: str
    gpu: Gpu | None


def device_line(report: GpuReport) -> str:
    """Return what was measured, as a line for people."""
    return f"device: {report['device']}{'' if report['gpu'] is None else ', ' + report['gpu']['name']}"
