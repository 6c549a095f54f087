"""What was promised of the suite `peers`, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench import names
from bench.harness import CaseRecord, RatioRecord
from bench.peers.table import POLARS, TENSORFLOW
from bench.targets import TargetRecord

OVER_TF, OVER_POLARS, OVER_EVERY = 10.0, 3.0, 2.29
"""Over tf.data from text; over Polars doing the whole job; over every peer (InTune's own figure)."""


def judge(cases: Sequence[CaseRecord]) -> list[TargetRecord]:
    """Return every target that these cases tell something about: rate over rate, median of the paired rounds."""
    return [target for case in cases for target in _targets(case)]


def _targets(case: CaseRecord) -> Iterator[TargetRecord]:
    where = f"peers, {case['name']}, {names.threads(case['threads'])}"
    ours = {engine["name"] for engine in case["engines"] if engine["role"] == "ours"}
    peers = [ratio for ratio in case["ratios"] if ratio["other"] not in ours]
    for ratio in peers:
        if ratio["other"] == TENSORFLOW and case["name"] == "tsv":
            yield _target(f"{where}: over {TENSORFLOW}", OVER_TF, ratio)
        if ratio["other"] == POLARS:
            yield _target(f"{where}: over {POLARS}", OVER_POLARS, ratio)
    if peers:
        closest = min(peers, key=lambda ratio: ratio["speed"]["median"])
        yield _target(f"{where}: over every peer ({closest['other']} is closest)", OVER_EVERY, closest)


def _target(name: str, wanted: float, ratio: RatioRecord) -> TargetRecord:
    found = ratio["speed"]["median"]
    return {"name": name, "wanted": wanted, "found": found, "met": found >= wanted}
