"""`intune-gpu explain`: what the tuner of a training run saw and did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from intune_gpu.cli.config import ExplainConfig
from intune_gpu.cli.picture import draw
from intune_gpu.cli.screen import print_json
from intune_gpu.cli.story import Part, parts_of, sentences
from intune_gpu.core.errors import DataError, MissingPackageError
from intune_gpu.tuner.decisions import FILE_NAME, plan_json, read_decisions

PICTURE = "decisions.png"


def run(config: ExplainConfig) -> int:
    """Tell the story and draw it; return the exit code.

    Raises:
        DataError: the folder has no decisions, or they cannot be read.
    """
    assert config.run is not None
    folder = Path(config.run)
    metrics = _metrics(folder)
    if metrics is not None and "tuner" in metrics and metrics["tuner"] is None:
        raise DataError(
            f"{folder}: expected a run with a tuner, found one without; train with --tuner hillclimb, or another"
        )
    parts = parts_of(read_decisions(folder / FILE_NAME))
    if not parts:
        raise DataError(f"{folder / FILE_NAME}: expected decisions, found none; the run ended before its first batch")
    picture, note = _picture(parts, folder)
    told = [line for number, part in enumerate(parts) for line in _told(part, number)] + _whole(metrics)
    if config.json:
        print_json(
            {
                "run": str(folder),
                "parts": [_part_json(part) for part in parts],
                "story": told,
                "picture": None if picture is None else str(picture),
                "note": note,
            }
        )
        return 0
    print("\n".join(told))
    print(f"picture   {picture}" if picture is not None else f"note: {note}")
    return 0


def _told(part: Part, number: int) -> list[str]:
    return [*([f"— resumed, part {number + 1} —"] if number else []), *sentences(part)]


def _whole(metrics: Mapping[str, Any] | None) -> list[str]:
    """Return what metrics.json says of the run as a whole; nothing where it was not written."""
    if metrics is None or not isinstance(metrics.get("rows_per_s"), int | float):
        return ["the run wrote no metrics.json: it goes on, or was killed"]
    waited = metrics.get("exposed_wait_pct")
    text = f"the whole run: {metrics['rows_per_s']:,.0f} rows/s"
    if isinstance(waited, int | float):
        text += f", {waited:.1f} % of the time waiting for data"
    tuner = metrics.get("tuner") or {}
    if "looks" in tuner:
        text += f"; {tuner['looks']} looks, {tuner['changes']} changes, {tuner['plans_tried']} plans tried"
    return [text]


def _picture(parts: Sequence[Part], folder: Path) -> tuple[Path | None, str | None]:
    """Return where the picture is, or why there is none: the words come in any case."""
    path = folder / PICTURE
    try:
        draw(parts, f"{parts[-1].begin['tuner']} on {folder.name}", path)
    except MissingPackageError as error:
        return None, str(error)
    except OSError as error:
        return None, f"the picture: cannot write {path} ({error.strerror or error}); make room, or mend permissions"
    return path, None


def _metrics(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _part_json(part: Part) -> dict[str, Any]:
    best = part.best
    return {
        "tuner": part.begin["tuner"],
        "began_with": part.begin["plan"],
        "ended_with": plan_json(part.last_plan),
        "best": None if best is None else {"plan": plan_json(best[0]), "rows_per_s": best[1]},
        "looks_written": len(part.looks),
        "changes": [{**asdict(change), "effect": change.effect} for change in part.changes],
        "events": [{"at_s": at_s, "what": what} for at_s, what in part.events],
        "ended_early": None if part.end is None or part.end.get("reason") == "closed" else part.end.get("reason"),
    }
