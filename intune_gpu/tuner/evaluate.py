"""Judge policies on machines that none of them has seen: `python -m intune_gpu.tuner.evaluate`.

Each figure is a share of the oracle's rows/s, averaged over a machine's steps; intervals are bootstrapped over
machines, and differences are paired: every policy meets the same machines, events and noise.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from intune_gpu.core.errors import IntuneError
from intune_gpu.tuner.attaching import policy_of
from intune_gpu.tuner.judging import SETTINGS, Row, judge_all
from intune_gpu.tuner.policies import NAMES
from intune_gpu.tuner.policy import Policy


def table(title: str, rows: Sequence[Row]) -> Table:
    """Return a readable table."""
    shown = Table(title=f"{title}, {rows[0].machines} machines", title_justify="left")
    shown.add_column("policy")
    for column in ("mean", "95 %", "worst decile", "rl less it", "to 95 %: start", "event", "changes a step"):
        shown.add_column(column, justify="right")
    for row in rows:
        less = "" if row.less is None else f"{row.less[0]:+.3f} [{row.less[1]:+.3f}, {row.less[2]:+.3f}]"
        shown.add_row(
            row.policy,
            f"{row.mean[0]:.3f}",
            f"{row.mean[1]:.3f} .. {row.mean[2]:.3f}",
            f"{row.worst:.3f}",
            less,
            f"{row.start_steps[0]:.0f} ({row.start_steps[1]:.0%} never)",
            f"{row.event_steps[0]:.0f} ({row.event_steps[1]:.0%} never)",
            f"{row.changes:.2f}",
        )
    return shown


@dataclass(frozen=True)
class Arguments:
    """Judge tuners on simulated machines that none of them has seen, against an oracle."""

    seeds: list[int] = field(default_factory=lambda: [1000])
    """Each draws machines of its own."""
    machines: int | None = None
    """Of a seed, in place of each setting's own number."""
    policies: list[str] = field(default_factory=lambda: list(NAMES))
    """Which to judge."""
    settings: list[str] = field(default_factory=lambda: [setting.name for setting in SETTINGS])
    """Which populations."""
    out: Path | None = None
    """Write every figure into this JSON file."""


def main(arguments: Arguments) -> int:
    """Judge and print tables; return the exit status: 2 for a wrong flag, 1 where something cannot be done."""
    fault = _fault(arguments)
    if fault is not None:
        print(f"intune_gpu.tuner.evaluate: {fault}", file=sys.stderr)
        return 2
    try:
        _judge(arguments, [policy_of(name) for name in arguments.policies])
    except (IntuneError, OSError) as error:  # OSError: nothing can be written to `out`
        print(f"intune_gpu.tuner.evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("intune_gpu.tuner.evaluate: stopped", file=sys.stderr)
        return 130
    return 0


def _fault(arguments: Arguments) -> str | None:
    """Return what is wrong with the flags."""
    known = {"policies": NAMES, "settings": tuple(setting.name for setting in SETTINGS)}
    for flag, names in known.items():
        for name in getattr(arguments, flag):
            if name not in names:
                return f"--{flag}: expected some of {', '.join(map(repr, names))}, found {name!r}"
        if not getattr(arguments, flag):
            return f"--{flag}: expected some of {', '.join(map(repr, names))}, found none"
    if not arguments.seeds or min(arguments.seeds) < 0:
        return f"--seeds: expected whole numbers of 0 or more, found {arguments.seeds or 'none'}"
    if arguments.machines is not None and arguments.machines < 1:
        return f"--machines: expected 1 or more, found {arguments.machines}"
    out = arguments.out
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        return f"--out: expected a file in a folder that is there, found {out}"
    return None


def _judge(arguments: Arguments, policies: Sequence[Policy]) -> None:
    """Judge in one setting after the other; print its tables, and write what there is behind each."""
    console = Console(width=140)
    found: dict[str, Any] = {"seeds": arguments.seeds, "left_out": {}, "tables": {}}
    for setting in SETTINGS:
        if setting.name not in arguments.settings:
            continue
        if arguments.machines is not None:
            setting = replace(setting, machines=arguments.machines)
        began = time.perf_counter()
        judged = judge_all(setting, arguments.seeds, policies)
        found["left_out"][setting.name] = judged.left_out
        kinds = {
            "drifting": judged.drifting,
            "static": ~judged.drifting,
            "consequential drift": judged.consequential,
        }
        for kind, mask in kinds.items():
            if mask.any():
                rows = judged.rows(mask)
                console.print(table(f"{setting.name}: {kind}", rows))
                found["tables"][f"{setting.name}: {kind}"] = [asdict(row) for row in rows]
        console.print(f"{time.perf_counter() - began:.0f} s")
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m intune_gpu.tuner.evaluate")))
