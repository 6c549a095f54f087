"""Results of the suite `gpu`: the report of the suite `cpu`, and what that has no words for."""

from __future__ import annotations

from typing import TypedDict

from bench.harness import Spread
from bench.report import Report


class Figure(TypedDict):
    """One measured number that is no rate of rows."""

    section: str
    name: str
    unit: str
    value: Spread
    note: str


class Gpu(TypedDict):
    """The GPU that was measured."""

    name: str
    capability: str
    memory_bytes: int
    cuda: str
    driver: str | None


class GpuReport(Report):
    """A whole run, as its JSON file holds it.

    `device` says "cuda", or that nothing was measured; `skipped` says for each thing that was left out why.
    """

    device: str
    gpu: Gpu | None
    figures: list[Figure]
    skipped: dict[str, str]


def figure(section: str, name: str, unit: str, value: Spread, note: str) -> Figure:
    """Return a figure."""
    return {"section": section, "name": name, "unit": unit, "value": value, "note": note}


def lines(report: GpuReport) -> list[str]:
    """Return figures and gaps as lines for people."""
    found = [f"device: {report['device']}{'' if report['gpu'] is None else ', ' + report['gpu']['name']}"]
    for one in report["figures"]:
        value = one["value"]
        spread = f"{value['min']:.4g} to {value['max']:.4g}"
        found.append(f"{one['section']}: {one['name']}: {value['median']:.4g} {one['unit']} ({spread}); {one['note']}")
    return found + [f"skipped: {name}: {reason}" for name, reason in report["skipped"].items()]
