"""The same rows give the same batches, whatever they are stored as, and however many threads make them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.recipe.ready import CRITEO_COLUMNS, CRITEO_DENSE, CRITEO_SPARSE
from intune_gpu.sources.synthetic import write_click_logs
from tests.shared_data import CRITEO_TINY, MOVIELENS, needs

ROWS = 20_000


def fingerprint(batch: ig.Batch) -> tuple[bytes, ...]:
    """Every byte that a trainer gets."""
    tensors = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.label)
    return tuple(tensor.numpy().tobytes() for tensor in tensors)


def batches(data: object, recipe: ig.Recipe, **settings) -> list[tuple[bytes, ...]]:
    with ig.Loader(data, recipe, **settings) as loader:
        return [fingerprint(batch) for batch in loader]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same synthetic rows three times."""
    folder = tmp_path_factory.mktemp("logs")
    kinds = {"tsv": ("tsv", True), "hex": ("parquet", True), "integers": ("parquet", False)}
    for name, (format, hex_ids) in kinds.items():
        write_click_logs(
            folder / name, ROWS, format=format, hex_ids=hex_ids, seed=3, files=3, row_group_rows=2_500, threads=1
        )
    return {name: folder / name for name in kinds}


@pytest.fixture(scope="module")
def recipe() -> ig.Recipe:
    criteo = ig.recipes.criteo(num_buckets=1000)
    crossed = dict(criteo.sparse) | {"C1_x_C2": [ig.Cross(["C1", "C2"], 5000)]}
    return ig.Recipe(label="label", dense=criteo.dense, sparse=crossed, types=criteo.types, seed=1)


def test_text_hex_strings_and_integers_agree(logs: dict[str, Path], recipe: ig.Recipe) -> None:
    given = {name: batches(path, recipe, batch_size=777) for name, path in logs.items()}
    assert len(given["tsv"]) == -(-ROWS // 777)
    assert given["tsv"] == given["hex"] == given["integers"]


@needs(CRITEO_TINY)
def test_real_rows_agree(tmp_path: Path, recipe: ig.Recipe) -> None:
    rows = [line.split("\t") for line in CRITEO_TINY.read_text().splitlines()]
    fields = dict(zip(CRITEO_COLUMNS, zip(*rows, strict=True), strict=True))
    numbers = {n: pa.array([int(v) if v else None for v in fields[n]], pa.int32()) for n in ("label", *CRITEO_DENSE)}
    strings = {n: pa.array([v or None for v in fields[n]]) for n in CRITEO_SPARSE}
    wrapped = {
        n: np.array([int(v, 16) if v else 0 for v in fields[n]], np.uint32).view(np.int32) for n in CRITEO_SPARSE
    }
    integers = {n: pa.array(wrapped[n], mask=np.array([v == "" for v in fields[n]])) for n in CRITEO_SPARSE}
    pq.write_table(pa.table(numbers | strings), tmp_path / "hex.parquet", row_group_size=300)
    pq.write_table(pa.table(numbers | integers), tmp_path / "integers.parquet", row_group_size=500)
    pq.write_table(
        pa.table(numbers | {n: v.dictionary_encode() for n, v in strings.items()}), tmp_path / "dictionary.parquet"
    )
    expected = batches(CRITEO_TINY, recipe, batch_size=128)
    for name in ("hex", "integers", "dictionary"):
        assert batches(tmp_path / f"{name}.parquet", recipe, batch_size=128) == expected, name
    whole = ig.transform(pa.table(numbers | strings), recipe)
    with ig.Loader(CRITEO_TINY, recipe, batch_size=len(rows)) as loader:
        assert fingerprint(next(iter(loader))) == fingerprint(whole)


@pytest.mark.parametrize("kind", ["tsv", "hex"])
def test_shuffled_batches_do_not_depend_on_threads_or_budget(
    logs: dict[str, Path], recipe: ig.Recipe, kind: str
) -> None:
    fixed = {"batch_size": 512, "shuffle": True, "seed": 5}
    expected = batches(logs[kind], recipe, readers=1, transformers=1, **fixed)
    assert expected != batches(logs[kind], recipe, batch_size=512)
    assert batches(logs[kind], recipe, readers=8, transformers=4, **fixed) == expected
    with ig.Loader(logs[kind], recipe, **fixed) as loader:
        least = loader.min_prefetch_bytes(1, 1)
    assert batches(logs[kind], recipe, readers=1, transformers=1, prefetch_bytes=least, **fixed) == expected

    chance = random.Random(7)
    with ig.Loader(logs[kind], recipe, **fixed) as loader:
        given = []
        for number, batch in enumerate(loader):
            given.append(fingerprint(batch))
            if number % 3 == 0:
                readers, transformers = chance.randint(1, 8), chance.randint(1, 4)
                budget = loader.min_prefetch_bytes(readers, transformers) + chance.randint(0, 1 << 28)
                loader.apply(ig.Plan(readers, transformers, budget))
    assert given == expected


def test_text_and_parquet_hold_the_same_rows_when_shuffled(logs: dict[str, Path], recipe: ig.Recipe) -> None:
    """Their chunks differ, so their order does; no row may."""

    def rows(path: Path) -> Iterator[bytes]:
        with ig.Loader(path, recipe, batch_size=1000, shuffle=True) as loader:
            for batch in loader:
                ids = batch.sparse.values().numpy().reshape(len(recipe.sparse), -1).T
                yield from (a.tobytes() + b.tobytes() for a, b in zip(batch.dense.numpy(), ids, strict=True))

    assert sorted(rows(logs["tsv"])) == sorted(rows(logs["hex"]))


def test_batches_outlive_the_loader(logs: dict[str, Path], recipe: ig.Recipe) -> None:
    expected = batches(logs["integers"], recipe, batch_size=600)
    with ig.Loader(logs["integers"], recipe, batch_size=600) as loader:
        kept = list(loader)
        again = [fingerprint(batch) for batch in loader]  # a second epoch must not write into the first one's memory
    assert [fingerprint(batch) for batch in kept] == again == expected


def test_resumed_in_the_middle_of_a_shuffled_epoch(logs: dict[str, Path], recipe: ig.Recipe) -> None:
    settings = {"batch_size": 512, "shuffle": True, "seed": 5}
    with ig.Loader(logs["hex"], recipe, **settings) as loader:
        expected = [fingerprint(batch) for _ in range(2) for batch in loader]
        per_epoch = len(loader)
    for stop in (1, per_epoch - 1, per_epoch, per_epoch + 3):
        with ig.Loader(logs["hex"], recipe, **settings) as loader:
            taken = (batch for _ in range(2) for batch in loader)
            last = [next(taken) for _ in range(stop)][-1]
            state = loader.state_dict(cursor=last.cursor)
        with ig.Loader(logs["hex"], recipe, readers=4, **settings) as loader:
            loader.load_state_dict(state)
            left = [fingerprint(batch) for _ in range(2 - (stop >= per_epoch)) for batch in loader]
        assert left[: len(expected) - stop] == expected[stop:], f"resumed behind batch {stop}"


@pytest.mark.parametrize("shuffle", [False, True])
def test_two_ranks_share_the_rows_of_one(logs: dict[str, Path], recipe: ig.Recipe, shuffle: bool) -> None:
    def rows_of(rank: int, world_size: int) -> tuple[list[bytes], int]:
        with ig.Loader(
            logs["hex"], recipe, batch_size=512, shuffle=shuffle, rank=rank, world_size=world_size
        ) as loader:
            given = list(loader)
            assert len(given) == len(loader)
        ids = [batch.sparse.values().numpy().reshape(len(recipe.sparse), -1).T for batch in given]
        return [row.tobytes() for part in ids for row in part], len(given)

    whole, _ = rows_of(0, 1)
    (first, first_batches), (second, second_batches) = rows_of(0, 2), rows_of(1, 2)
    assert first_batches == second_batches
    assert first + second == whole[: len(whole) // 2 * 2]


@needs(MOVIELENS)
def test_lists_strings_and_nulls_shuffled(tmp_path: Path) -> None:
    recipe = ig.Recipe(
        label="label",
        dense={"year": [ig.Column("release_year"), ig.FillMissing(1990), ig.Scale(1990, 15)]},
        sparse={
            "genres": [ig.FirstK(2), ig.HashBucket(50)],
            "occupation": [ig.HashBucket(40)],
            "user": [ig.Column("user_id"), ig.HashBucket(2000)],
            "user_x_job": [ig.Cross(["user_id", "occupation"], 3000)],
        },
    )
    table = pq.read_table(MOVIELENS).slice(0, 30_000)
    pq.write_table(table, tmp_path / "small.parquet", row_group_size=3_100)
    one = batches(tmp_path / "small.parquet", recipe, batch_size=500, shuffle=True, readers=1)
    many = batches(tmp_path / "small.parquet", recipe, batch_size=500, shuffle=True, readers=6, transformers=3)
    assert one == many
    unshuffled = batches(tmp_path / "small.parquet", recipe, batch_size=30_000)
    assert unshuffled == [fingerprint(ig.transform(table, recipe))]
