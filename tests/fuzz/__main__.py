"""`make fuzz`: random files against the plain parser, and two targets for atheris, bounded in time and in fields."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from tests.fuzz import bulk

HERE = Path(__file__).parent
TARGETS = ("text", "recipe")
FLAGS = ("-max_len=4096", "-timeout=60", "-rss_limit_mb=8192", "-print_final_stats=1", "-artifact_prefix=fuzz-")
"""Of libFuzzer: a run of more than a minute is a hang, and what fails is kept in the working directory."""


@dataclass(frozen=True)
class Config:
    """How long to fuzz."""

    fields: int = 10_000_000
    """Fields of random files to compare with the plain parser."""
    seconds: float = 60.0
    """Time for each target of atheris; the random files stop behind ten times of it."""
    seed: int = 1
    """Of everything."""
    out: Path = Path("fuzz.json")
    """Where the counts are written."""


def main(config: Config) -> int:
    """Fuzz, write the counts, and return 1 if anything was found."""
    counts = bulk.run(config.seed, config.fields, 10 * config.seconds)
    found: dict[str, Any] = {"random_files": asdict(counts)}
    failed = bool(counts.differences)
    for target in TARGETS if config.seconds else ():
        found[target] = guided(target, config)
        failed |= found[target]["exit_code"] != 0
    config.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(failed)


def guided(target: str, config: Config) -> dict[str, Any]:
    """Run one target in a process of its own, from the corpus that is kept."""
    with tempfile.TemporaryDirectory() as new:
        command = [sys.executable, "-m", "tests.fuzz.guided", target, *FLAGS, f"-max_total_time={config.seconds:.0f}"]
        command += [f"-seed={config.seed}", new, str(HERE / "corpus" / target)]
        ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        stats = {name: int(number) for name, number in re.findall(r"stat::(\w+):\s+(\d+)", ran.stderr)}
        coverage = [int(number) for number in re.findall(r"cov: (\d+)", ran.stderr)]
    if ran.returncode:
        print(ran.stderr[-5000:], file=sys.stderr)
    return {
        "seed": config.seed,
        "seconds": config.seconds,
        "runs": stats.get("number_of_executed_units", 0),
        "new_inputs": stats.get("new_units_added", 0),
        "coverage_first_last": [coverage[0], coverage[-1]] if coverage else [],
        "exit_code": ran.returncode,
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
