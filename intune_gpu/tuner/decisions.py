"""decisions.jsonl: what the tuner saw, did and got, a line each, for people and for `intune-gpu explain`."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from intune_gpu.core.errors import DataError
from intune_gpu.core.placement import Placement
from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import Signals

FILE_NAME = "decisions.jsonl"
DRIFTED = "things changed"
"""How the event begins that says that the same plan gives other rows per second than before."""
LOOKS_A_RUN = 200
"""Looks that change nothing thin out as a run grows: one in so many parts of the time so far."""

log = logging.getLogger(__name__)


class DecisionLog:
    """Appends whole lines to a file; where that fails, it says so once and writes no more.

    Args:
        path: the file, made with its folder at the first line; None writes nothing.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.lines = 0
        self._next_look_s = 0.0
        self._failed = False

    def write(self, kind: str, at_s: float, **values: Any) -> None:
        """Write a line.

        Args:
            kind: `"begin"`, `"decision"`, `"look"`, `"event"` or `"end"`.
            at_s: seconds since tuning began.
            values: whatever JSON takes; what is not a number becomes null.
        """
        if self.path is None or self._failed:
            return
        line = json.dumps({"kind": kind, "at_s": round(at_s, 3), **_plain(values)}, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:  # one write: a line is there whole, or not at all
                file.write(line)
        except OSError as error:
            self._failed = True
            log.warning("decisions: cannot write %s (%s); tuning goes on without", self.path, error.strerror or error)
            return
        self.lines += 1

    def look(self, at_s: float, **values: Any) -> None:
        """Write a look that changed nothing, unless the last one is too near."""
        if at_s >= self._next_look_s:
            self._next_look_s = at_s * (1 + 1 / LOOKS_A_RUN)
            self.write("look", at_s, **values)


def read_decisions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a file in the order of time; a last line that was cut short is left out.

    Raises:
        DataError: there is no such file, or a line before the last is not one of ours.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(
            f"{path}: expected the decisions of a run with a tuner, found {why}; name a run's folder, as training's "
            "last lines do (--tuner off leaves no decisions)"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                found.append(_line(line))
        except ValueError as error:
            if number < len(lines):  # every whole line ends with a line break
                raise DataError(
                    f"{path}, line {number}: expected a decision as JSON, found {error}; remove that line"
                ) from error
    return _in_order(found)


def signals_json(signals: Signals) -> dict[str, Any]:
    """Return signals without what the machine could not tell."""
    return {name: value for name, value in asdict(signals).items() if value not in (None, (), [])}


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan; its placement only where it has one."""
    return {name: value for name, value in asdict(plan).items() if value is not None}


def plan_from(value: Mapping[str, Any]) -> Plan:
    """Return the plan that `plan_json` gave.

    Raises:
        DataError: it is none.
    """
    try:
        rest = dict(value)
        placed = rest.pop("placement", None)
        groups = () if placed is None else tuple((str(name), float(share)) for name, share in placed["groups"])
        return Plan(**rest, placement=None if placed is None else Placement(placed["everywhere"], groups))
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(f"decisions: expected a plan, found {value!r} ({error}); remove that line") from error


def _line(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or "at_s" not in value:
        raise ValueError("no kind and no time in it")
    return value


def _in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the lines of each run by time: a decision is written once its effect was seen."""
    run, keyed = 0, []
    for line in lines:
        run += line["kind"] == "begin"
        keyed.append((run, float(line["at_s"]), line))
    return [line for _, _, line in sorted(keyed, key=lambda item: item[:2])]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
