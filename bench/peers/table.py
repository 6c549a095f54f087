"""Every engine of the suite in one place: what it is called, where it runs, and what it does otherwise than ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench import names
from bench.harness import Role
from bench.peers import environments
from bench.peers.environments import Environment

Format = Literal["tsv", "parquet-int", "parquet-hex", "parquet-lists"]
FORMATS: tuple[Format, ...] = ("tsv", "parquet-int", "parquet-hex", "parquet-lists")

OURS, FIRST_SIGHT, OURS_DALI = names.OURS, names.FIRST_SIGHT, f"{names.OURS}, DALI"
TENSORFLOW, DATALOADER, POLARS, RAY = "tf.data", "DataLoader", "Polars, whole job", "Ray Data"
PANDAS, TORCHREC = "pandas", "TorchRec's scripts"


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        key: for --engines.
        name: as tables show it.
        role: ours or a peer.
        command: behind `python -m` or `python`: the job and its arguments.
        note: what is called, and what is otherwise than in ours.
        environment: None where it runs in the project's own.
        ids: `xxh64` equal ours; `modulo` are the value modulo the buckets; of `own` only the shape can be checked.
        dense: `log1p`, or `least`: ln(x - m + 2), m being the least integer of a file.
        share: it does only the first file of so many, since it takes long and no row costs less for there being more.
        formats: that it can read.
        halted: its processes are stopped (SIGSTOP) while others run, since they would go on working.
    """

    key: str
    name: str
    role: Role
    command: tuple[str, ...]
    note: str
    environment: Environment | None = None
    ids: Literal["xxh64", "modulo", "own"] = "own"
    dense: Literal["log1p", "least"] = "log1p"
    share: int = 1
    formats: tuple[str, ...] = FORMATS
    halted: bool = False


def _job(name: str, *arguments: str) -> tuple[str, ...]:
    return ("-m", f"bench.peers.jobs.{name}", *arguments)


ENGINES: tuple[Engine, ...] = (
    Engine(
        "ours",
        OURS,
        "ours",
        _job("ours", "loader"),
        "a new Loader, one epoch, the plan that it takes by itself; row counts of text on disk from an earlier epoch",
        ids="xxh64",
    ),
    Engine(
        "first-sight",
        FIRST_SIGHT,
        "ours",
        _job("ours", "first-sight"),
        "the same, rows of text counted first",
        ids="xxh64",
        formats=("tsv",),
    ),
    Engine("dali", OURS_DALI, "ours", _job("ours", "dali"), "a new DALIRecIterator, one epoch", ids="xxh64"),
    Engine(
        "tf",
        TENSORFLOW,
        "peer",
        _job("tf_data"),
        "AUTOTUNE with its CPU and memory budgets; text: TextLineDataset, decode_csv on batches, "
        "to_hash_bucket_fast; Parquet: pyarrow through from_generator, a generator a file; no KeyedJaggedTensor",
        environments.TENSORFLOW,
    ),
    Engine(
        "dataloader",
        DATALOADER,
        "peer",
        _job("dataloader"),
        "PyTorch worker processes over pyarrow or a parser in NumPy, the transform in NumPy, a batch an item "
        "in shared memory",
        ids="xxh64",
    ),
    Engine(
        "polars",
        POLARS,
        "peer",
        _job("polars_lazy"),
        "lazy scan, one select with Polars' own hash, batches to NumPy and a KeyedJaggedTensor",
    ),
    Engine(
        "ray",
        RAY,
        "peer",
        _job("ray_data"),
        "Ray Data, a local cluster, 2 GiB of object store; one multiplication as hash; no KeyedJaggedTensor",
        environments.RAY,
        halted=True,
    ),
    Engine(
        "pandas",
        PANDAS,
        "peer",
        _job("pandas_chunks"),
        "chunks of a batch, int(x, 16) % buckets, missing is id 0 too; no KeyedJaggedTensor",
        environments.PANDAS,
        ids="modulo",
        share=2,
    ),
    Engine(
        "torchrec",
        TORCHREC,
        "peer",
        _job("torchrec_scripts"),
        "tsv_to_npys as it is, then InMemoryBinaryCriteoIterDataPipe: ids modulo the buckets, ln(x - least + 2)",
        ids="modulo",
        dense="least",
        share=2,
        formats=("tsv",),
    ),
)

ATTEMPTED: dict[str, Environment] = {"NVTabular": environments.NVTABULAR, "RecIS": environments.RECIS}
"""Peers without a job here: whether they install at all is said in the report."""
