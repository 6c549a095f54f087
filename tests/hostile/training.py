"""`python -m intune_gpu.train`, inside this process: its flags, its labels, and where it writes."""

from __future__ import annotations

import io
import json
import math
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import intune_gpu as ig
from intune_gpu.core.gpu import find_driver
from intune_gpu.train.__main__ import main
from tests.hostile.case import HEAD, Seen, case, load, message_of, rows, write

FLAGS = "Flags of `python -m intune_gpu.train`"
LABELS = "Labels, in training"
DISK = "A full disk"
BUCKETS = 2000
RECIPE = ig.Recipe("y", dense={"n": [ig.FillMissing()]}, sparse={c: [ig.HashBucket(BUCKETS)] for c in ("a", "b")})
ROWS = 64


def train(*words: object) -> Seen:
    """Train on `logs`, and tell the exit code and what was left in the working directory."""
    RECIPE.save("r.json")
    before = {path for path in Path().rglob("*") if path.is_file()}
    out, err = io.StringIO(), io.StringIO()
    base = ["--data", "logs", "--recipe", "r.json", "--batch-size", 16, "--eval-fraction", 0, "--run-dir", "run"]
    flags = [str(word) for word in [*base, "--device", "cpu", "--no-shuffle", "--readers", 1, *words]]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: object = main(flags)
        except SystemExit as error:
            code = error.code
    says = re.sub(r"[│╭╮╰╯]", " ", err.getvalue()).replace("intune_gpu.train: ", "")
    left = sorted({path for path in Path().rglob("*") if path.is_file()} - before)
    return Seen(says, f"exit code {code}; {_in_words(left)}")


def _in_words(left: Sequence[Path]) -> str:
    parts = [path.parent.name for path in left if path.name == "state.json"]
    for path in left:
        if path.name == "metrics.json":
            found = json.loads(path.read_text())
            parts.append(f"{found['rows']} rows trained, {found['bad_rows']} bad")
        elif path.name.startswith("bad_rows"):
            parts.append(f"{len(path.read_bytes().splitlines())} in bad_rows.jsonl")
        elif path.name == "decisions.jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)  # each is there whole
        elif path.name == "state.json" or path.suffix == ".safetensors" or path.name.startswith("events."):
            continue
        else:
            parts.append(f"left behind: {path}")
    return ", ".join(parts) or "nothing was written"


def clicks(labels: Sequence[Any], path: str = "logs/a.parquet", type: pa.DataType | None = None) -> Path:
    """Write click logs."""
    numbers = list(range(len(labels)))
    target = Path(path)
    target.parent.mkdir(exist_ok=True)
    content = {"y": pa.array(labels, type), "n": numbers, "a": numbers, "b": numbers}
    pq.write_table(pa.table(content), target, row_group_size=16)
    return target


# --- flags -----------------------------------------------------------------------------------------------------------

WRONG = [
    ("--batch-size 0", "--batch-size: expected at least 1, found 0"),
    ("--batch-size x", "batch-size"),
    ("--epochs 0", "--epochs: expected at least 1, found 0"),
    ("--max-steps 0", "--max-steps: expected at least 1, found 0"),
    ("--checkpoint-every -1", "--checkpoint-every: expected 0 or more, found -1"),
    ("--readers 0", "--readers: expected at least 1, found 0"),
    ("--readers 513", "readers: expected 1 to 512, found 513"),
    ("--transformers 0", "--transformers: expected at least 1, found 0"),
    ("--transformers 513", "transformers: expected 1 to 512, found 513"),
    ("--prefetch-mib 0", "--prefetch-mib: expected at least 1, found 0"),
    ("--gpu-budget-mib 0", "--gpu-budget-mib: expected at least 1, found 0"),
    ("--placement half", "--placement: expected all-cpu, all-gpu or a share from 0 to 1, found half"),
    ("--placement all-gpu", "--placement: expected all-cpu with --device cpu, found all-gpu"),
    ("--precision fp64", "precision"),
    ("--recipe criteo --num-buckets 1", "--num-buckets: expected at least 2, found 1"),
    ("--recipe nonsense", "--recipe: expected criteo or a JSON file that Recipe.save wrote, found nonsense"),
    ("--eval-fraction 1", "--eval-fraction: expected 0 or more, below 1, found 1.0"),
    ("--eval-fraction -0.1", "--eval-fraction"),
    ("--eval-fraction nan", "--eval-fraction: expected 0 or more, below 1, found nan"),
    ("--max-bad-fraction 1.5", "--max-bad-fraction: expected 0 to 1, found 1.5"),
    ("--max-bad-fraction nan", "--max-bad-fraction: expected 0 to 1, found nan"),
    ("--embedding-dim 6", "--embedding-dim: expected a multiple of 4"),
    ("--embedding-dim 1000000000", "model: expected tables and layers that fit into .* of memory"),
    ("--bottom-mlp 4000000 4000000", "model: expected tables and layers that fit into"),
    ("--bottom-mlp 0", "--bottom-mlp 0: expected at least 1"),
    ("--top-mlp -3", "--top-mlp -3: expected at least 1"),
    ("--lr 0", "--lr: expected above 0 and finite, found 0.0"),
    ("--lr inf", "--lr: expected above 0 and finite, found inf"),
    ("--lr nan", "--lr: expected above 0 and finite, found nan"),
    ("--seed -1", "--seed: expected 0 to"),
    ("--seed 9223372036854775808", "--seed: expected 0 to"),
    ("--format json", "format"),
    ("--split middle", "split"),
    ("--on-bad-row ignore", "on-bad-row"),
    ("--table-optimizer adam", "table-optimizer"),
    ("--pipeline fast", "pipeline"),
    ("--device tpu", "device"),
    ("--colour red", "colour"),
    ("--run-dir r.json", "--run-dir r.json: expected a folder to write in, found a file"),
    ("--checkpoint-dir r.json", "--checkpoint-dir r.json: expected a folder to write in, found a file"),
]


UNFIT = [
    ("--eval-data nowhere.parquet", "nowhere.parquet: expected a file"),
    ("--columns y n a b", "columns: expected None for Parquet files"),
    ("--resume run.json --run-dir other", "--resume run.json: expected a checkpoint"),
    ("--recipe criteo --num-buckets 2147483649", "num.buckets"),
]
"""Flags that are well formed, and do not fit the rest."""


def wrong_flag(flag: str, here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    return train(*flag.split())


for _code, _flags in ((2, WRONG), (1, UNFIT)):
    for _flag, _says in _flags:
        _name, _kept = re.sub(r"\W+", "_", _flag).strip("_"), f"exit code {_code}; nothing was written"
        case(FLAGS, f"`{_flag}`", _says, _kept, name=_name)(partial(wrong_flag, _flag))


@case(
    FLAGS,
    "`--device cuda` where no GPU is",
    r"--device cuda: expected an NVIDIA GPU, found no NVIDIA driver",
    "exit code 2; nothing was written",
    needs=lambda: find_driver().cuda is None and not find_driver().module,
)
def cuda_without_gpu(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    return train("--device", "cuda")


@case(
    FLAGS,
    "`--prefetch-mib 1` with a batch of a million rows",
    r"prefetch_bytes: expected at least",
    "exit code 1; nothing was written",
)
def small_budget(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    return train("--prefetch-mib", 1, "--batch-size", 1_000_000)


# --- labels ----------------------------------------------------------------------------------------------------------


def labelled(labels: Sequence[Any], *words: object, type: pa.DataType | None = None) -> Seen:
    """Train on these labels, raising at the first bad row; then on the same, keeping what can be kept."""
    clicks(labels, type=type)
    strict = train("--on-bad-row", "raise", "--run-dir", "strict", *words)
    return Seen(strict.says, train(*words).kept)


TRAINED = "exit code 0; step-000000004, 1 in bad_rows.jsonl, 63 rows trained, 1 bad"
ALLOW = ("--max-bad-fraction", 0.5)


@case(LABELS, "A missing label", r"line 20, column 'y': expected a label, found none", TRAINED)
def missing_label(here: Path) -> Seen:
    return labelled([0, 1] * 10 + [None] + [0, 1] * 21 + [1], *ALLOW)


@case(LABELS, "An infinite label", r"line 20, column 'y': expected a finite label, found inf", TRAINED)
def infinite_label(here: Path) -> Seen:
    return labelled([0, 1] * 10 + [math.inf] + [0, 1] * 21 + [1], *ALLOW, type=pa.float32())


@case(
    LABELS,
    "A label that is not a number",
    r"line 20, column 'y': expected a finite label, found nan",
    TRAINED,
)
def nan_label(here: Path) -> Seen:
    return labelled([0, 1] * 10 + [math.nan] + [0, 1] * 21 + [1], *ALLOW, type=pa.float32())


@case(LABELS, "A label of 2", r"line 20, column 'y': expected a label from 0 to 1, found 2", TRAINED)
def label_2(here: Path) -> Seen:
    return labelled([0, 1] * 10 + [2] + [0, 1] * 21 + [1], *ALLOW)


@case(
    LABELS,
    "A label of 2 in text",
    r"a\.tsv, line 5, column 'y': expected a label from 0 to 1, found '2'; the row is",
    "exit code 0; step-000000001, 1 in bad_rows.jsonl, 5 rows trained, 1 bad",
)
def label_2_in_text(here: Path) -> Seen:
    recipe = ig.Recipe("y", dense={"n": [ig.FillMissing()]}, sparse={"id": [ig.HashBucket(10)]}, types={"y": "int64"})
    recipe.save("text.json")
    write(here / "logs/a.tsv", HEAD, rows(1, 3), b"2\t4\tid\n", rows(5, 6))
    strict = train("--recipe", "text.json", "--on-bad-row", "raise", "--run-dir", "strict")
    return Seen(strict.says, train("--recipe", "text.json", *ALLOW).kept)


@case(LABELS, "Labels of -1 and 1", r"found 8 of 16 \(50\.0000%\)", "exit code 1; 8 in bad_rows.jsonl")
def labels_of_minus_1(here: Path) -> Seen:
    clicks([-1, 1] * (ROWS // 2))
    return train()


@case(LABELS, "Labels between 0 and 1: shares of clicks", "", "exit code 0; step-000000004, 64 rows trained, 0 bad")
def soft_labels(here: Path) -> Seen:
    clicks([0.25, 0.75] * (ROWS // 2))
    return train()


@case(
    LABELS,
    "Held-out rows of one class: no AUC, and it says so",
    r"^the 20 held-out rows are all of one class$",
    "exit code 0; step-000000004, 64 rows trained, 0 bad",
)
def one_class(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    clicks([1] * 20, "ones.parquet")
    seen = train("--eval-data", "ones.parquet")
    found = json.loads(Path("run/metrics.json").read_text())
    assert (found["auc"], found["eval_rows"], seen.says) == (None, 20, "")
    return Seen(found["auc_note"], seen.kept)


@case(
    LABELS,
    "Held-out rows that are all bad",
    r"^no held-out row could be read$",
    "exit code 0; step-000000004, 20 in bad_rows.jsonl, 64 rows trained, 0 bad",
)
def no_evaluation(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    clicks([None] * 20, "none.parquet", pa.int32())
    seen = train("--eval-data", "none.parquet", "--max-bad-fraction", 1)
    return Seen(json.loads(Path("run/metrics.json").read_text())["auc_note"], seen.kept)


@case(LABELS, "One row, and nothing to hold out", "", "exit code 0; step-000000001, 1 rows trained, 0 bad")
def one_row(here: Path) -> Seen:
    clicks([1])
    return train("--eval-fraction", 0.5)


@case(
    LABELS,
    "A dense feature that is infinite",
    r'dense feature "n": expected finite numbers, found inf',
    "exit code 1; nothing was written",
)
def infinite_feature(here: Path) -> Seen:
    write(here / "logs/a.tsv", b"y\tn\ta\tb\n", b"1\tinf\tx\ty\n" * 4)
    return train()


# --- disk ------------------------------------------------------------------------------------------------------------


@contextmanager
def _files_up_to(nbytes: int) -> Iterator[None]:
    """Let no file grow beyond this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@case(
    DISK,
    "Under the quarantine",
    r"bad_rows\.jsonl: expected to be able to write bad rows there, found No space left on device",
    "rows 1 to 2 given",
)
def full_quarantine(here: Path) -> Seen:
    Path("full").mkdir()
    Path("full/bad_rows.jsonl").symlink_to("/dev/full")
    path = write(here / "a.tsv", HEAD, rows(1, 2), b"?\t3\tc\n", rows(4, 4))
    return load(path, quarantine_dir="full")


@case(
    DISK,
    "Under the quarantine of a training run",
    r"bad_rows\.jsonl: expected to be able to write bad rows there, found No space left on device",
    "exit code 1; step-000000002",
)
def full_quarantine_in_training(here: Path) -> Seen:
    clicks([0, 1] * 30 + [None] + [1, 0, 1])
    Path("run").mkdir()
    Path("run/bad_rows.jsonl").symlink_to("/dev/full")
    return train(*ALLOW)


@case(
    DISK,
    "Under the second checkpoint: the first is whole",
    r"checkpoint: expected to be able to write under run/checkpoints, found .*File too large",
    "exit code 1; step-000000002",
)
def full_checkpoint(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    assert train("--max-steps", 2).kept.startswith("exit code 0; step-000000002")
    with _files_up_to(100_000):
        seen = train("--resume", "run", "--max-steps", 4)
    whole = [folder.name for folder in Path("run/checkpoints").iterdir() if not folder.name.startswith(".")]
    again = train("--resume", "run", "--max-steps", 4).kept
    assert again.startswith("exit code 0; step-000000004"), again
    return Seen(seen.says, f"{seen.kept.split(';')[0]}; {', '.join(whole)}")


@case(
    DISK,
    "Under metrics.json: the checkpoint is whole",
    r"metrics\.json: expected to be able to write it, found No space left on device",
    "exit code 1; step-000000004",
)
def full_metrics(here: Path) -> Seen:
    clicks([0, 1] * (ROWS // 2))
    Path("run").mkdir()
    Path("run/.metrics.json.partial").symlink_to("/dev/full")
    return train()


@case(
    DISK,
    "Under a recipe that is saved again: the old one stays",
    r"recipe r\.json: expected room to write it, found .*File too large",
    "the old recipe",
)
def full_recipe(here: Path) -> Seen:
    RECIPE.save("r.json")
    other = ig.recipes.criteo()
    with _files_up_to(100):
        says = message_of(lambda: other.save("r.json"))
    assert sorted(Path().iterdir()) == [Path("r.json")]
    return Seen(says, "the old recipe" if ig.Recipe.load("r.json") == RECIPE else "another recipe")
