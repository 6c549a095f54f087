"""`python -m bench.against BASE HEAD`: two commits side by side, each in a worktree of its own, in turns.

One bench measures both: this tree's, copied beside each commit's package. A bench that changed with the package would
compare two benches. What an old package cannot do is named and left out. `.` stands for this tree as it is, with what
is not committed. The environment is this one; nothing is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from bench import fresh, names, report
from bench.machine import ROOT

PACKAGE = ("intune_gpu", "kernels")
HERE = "."

Case = tuple[str, str, int, str]
"""(section, name, threads, engine)."""


@dataclass(frozen=True)
class Args:
    """Compare two commits on this machine: rates of HEAD over those of BASE, paired, processes in turns."""

    base: tyro.conf.Positional[str]
    """What is compared with: a commit, a branch, a tag, or . for this tree as it is."""
    head: tyro.conf.Positional[str]
    """What is judged."""
    suite: Literal["cpu", "dali", "scale"] = "cpu"
    """What to measure."""
    sections: tuple[str, ...] = ()
    """Of the suite; by default all."""
    rounds: int = 5
    """Processes of each commit, in turns; one more of each comes first, which compiles, and does not count."""
    repeats: int = 3
    """Rounds within a process."""
    tiny: bool = False
    """Runs of seconds; the ratios mean nothing."""
    fail_below: float | None = None
    """End with status 1 where a case's rate is below this share of BASE's, for instance 0.95, and its interval too."""
    out: Path | None = None
    """Write the ratios, every round included, into this JSON file."""


class AgainstError(Exception):
    """The comparison cannot be made."""


def main(args: Args) -> int:
    """Compare; return the exit status: 1 where HEAD is slower than allowed, 2 where nothing can be compared."""
    from rich.console import Console

    if args.rounds < 1 or args.repeats < 1:
        print("against: --rounds and --repeats: expected at least 1", file=sys.stderr)
        return 2
    try:
        with ExitStack() as stack:
            sides = {"base": stack.enter_context(side(args.base)), "head": stack.enter_context(side(args.head))}
            rates = _in_turns(args, sides)
    except AgainstError as error:
        print(f"against: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("against: stopped by Ctrl-C; the worktrees are removed", file=sys.stderr)
        return 130
    found = compared(rates)
    console = Console(width=None if sys.stdout.isatty() else 130)
    slower = _show(found, args, console)
    if args.out is not None:
        about = report.header("against", tiny=args.tiny, seed=0, repeats=args.rounds)
        record = {**about, "base": _hash(args.base), "head": _hash(args.head), "ratios": found}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if slower else 0


@contextmanager
def side(commit: str) -> Iterator[Path]:
    """Give a folder with the package of a commit and this tree's bench; it is removed behind it.

    Raises:
        AgainstError: there is no such commit.
    """
    place = Path(tempfile.mkdtemp(prefix="intune_gpu-against-"))
    folder = place / "tree"
    try:
        if commit == HERE:
            folder.mkdir()
            for name in PACKAGE:
                shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            _git("worktree", "add", "--detach", "--quiet", str(folder), f"{commit}^{{commit}}")
            shutil.rmtree(folder / "bench", ignore_errors=True)
        shutil.copytree(ROOT / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__", "results"))
        yield folder
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if commit != HERE:
            _git("worktree", "prune")  # forgets what is gone


def _in_turns(args: Args, sides: Mapping[str, Path]) -> dict[str, list[dict[Case, float]]]:
    """Return each side's rates, process by process; every other round begins with the other side."""
    rates: dict[str, list[dict[Case, float]]] = {name: [] for name in sides}
    for number in range(args.rounds + 1):
        for name in sorted(sides, reverse=bool(number % 2)):
            what = f"round {number} of {args.rounds}" if number else "warming up"
            print(f"  {what}: {name} ({getattr(args, name)})", file=sys.stderr, flush=True)
            found = _measured(args, sides[name])
            if number:
                rates[name].append(found)
    return rates


def _measured(args: Args, folder: Path) -> dict[Case, float]:
    """Return our engines' rates in one process of one side."""
    out = folder.parent / "result.json"
    out.unlink(missing_ok=True)
    flags = ["--suite", args.suite, "--repeats", str(args.repeats), "--out", str(out)]
    flags += ["--sections", *args.sections] if args.sections else []
    flags += ["--tiny"] if args.tiny else []
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "bench", *flags]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            fresh.interrupt(process.pid)
            process.wait()
            raise
        if status and not out.exists():
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-3:]
            raise AgainstError(f"the bench of {folder.name} ended with status {status}: {' / '.join(last)}")
    result = report.read(out)
    return {
        (case["section"], case["name"], case["threads"], engine["name"]): engine["rows_per_s"]["median"]
        for case in result["cases"]
        for engine in case["engines"]
        if engine["role"] == "ours"
    }


def compared(rates: Mapping[str, Sequence[Mapping[Case, float]]]) -> list[dict[str, Any]]:
    """Return the ratio of each case that both sides have, head over base: median of rounds, and its 95 % interval."""
    from bench.tuner_parts import interval

    found = []
    for case in rates["base"][0]:
        pairs = list(zip(rates["base"], rates["head"], strict=True))
        if not all(case in base and case in head for base, head in pairs):
            continue
        ratios = [head[case] / base[case] for base, head in pairs]
        _, low, high = interval(ratios)
        section, name, threads, engine = case
        words = {"section": section, "name": name, "threads": threads, "engine": engine}
        found.append(words | {"ratio": sorted(ratios)[len(ratios) // 2], "low": low, "high": high, "rounds": ratios})
    return found


def slower_than(found: Sequence[Mapping[str, Any]], share: float | None) -> list[Mapping[str, Any]]:
    """Return the cases whose ratio, and all of whose interval, is below a share."""
    return [] if share is None else [one for one in found if one["ratio"] < share and one["high"] < share]


def _show(found: Sequence[Mapping[str, Any]], args: Args, console: Any) -> list[Mapping[str, Any]]:
    from rich.table import Table

    slower = slower_than(found, args.fail_below)
    table = Table(title=f"{args.head} over {args.base}: rate over rate", title_justify="left")
    table.add_column("case")
    for column in ("median", "95 % interval of the mean", "rounds"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        where = f"{one['section']}: {one['name']}, {names.threads(one['threads'])}, {one['engine']}"
        colour = "red" if one in slower else "default"
        ends = f"{one['low']:.3f} to {one['high']:.3f}"
        table.add_row(where, f"[{colour}]{one['ratio']:.3f}[/]", ends, str(len(one["rounds"])))
    console.print(table)
    for one in slower:
        console.print(f"slower than {args.fail_below:g}: {one['section']}: {one['name']}, {one['engine']}", style="red")
    return slower


def _hash(commit: str) -> str:
    return "this tree" if commit == HERE else _git("rev-parse", f"{commit}^{{commit}}").strip()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AgainstError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    with fresh.sigterm_as_ctrl_c():
        sys.exit(main(tyro.cli(Args, prog="python -m bench.against", description=__doc__)))
