import errno
import json

import numpy as np
import polars as pl
import pytest

from intune_gpu.core.errors import DataError
from intune_gpu.sources import synthetic, synthetic_model
from intune_gpu.sources.synthetic import read_info, write_click_logs
from intune_gpu.sources.synthetic_model import (
    CARDINALITIES,
    DENSE_TERMS,
    FIELDS,
    ID_FIELDS,
    ID_TERMS,
    INTEGER_FIELDS,
    MISSING_RATES,
    MISSING_WITH,
    PAIR_TERMS,
    draw_columns,
    exact_aucs,
    expected_auc,
    planted_model,
)

ROWS, SEED = 6_000, 3
TYPES = {"label": pl.Int32, **dict.fromkeys(INTEGER_FIELDS, pl.Int32), **dict.fromkeys(ID_FIELDS, pl.String)}


def write(folder, **options):
    return write_click_logs(folder, options.pop("rows", ROWS), seed=SEED, row_group_rows=1_000, **options)


def read_tsv(folder):
    parts = sorted(folder.glob("*.tsv"))
    return pl.concat(pl.read_csv(part, separator="\t", has_header=False, schema=TYPES) for part in parts)


@pytest.fixture(scope="module")
def hex_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "hex"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def drawn():
    columns = draw_columns(SEED, 0, 100_000)
    model = planted_model(SEED)
    parts = model.parts(columns)
    return columns, parts, model.probabilities(parts)


def test_the_same_rows_in_three_formats(tmp_path, hex_folder):
    write(tmp_path / "tsv", format="tsv")
    write(tmp_path / "int", hex_ids=False)
    rows = pl.read_parquet(hex_folder / "*.parquet")
    assert rows.columns == list(TYPES)
    assert rows.shape == (ROWS, 40)
    assert rows.equals(read_tsv(tmp_path / "tsv"))
    integer_ids = pl.read_parquet(tmp_path / "int" / "*.parquet")
    assert set(integer_ids[list(ID_FIELDS)].dtypes) == {pl.Int32}
    digits = rows.with_columns(pl.col(ID_FIELDS).str.to_integer(base=16, dtype=pl.UInt32).reinterpret(signed=True))
    assert integer_ids.equals(digits)
    assert integer_ids["C1"].min() < 0 < integer_ids["C1"].max()


def test_text_is_the_format_of_criteo(tmp_path):
    write(tmp_path / "tsv", format="tsv", files=1, rows=50)
    text = (tmp_path / "tsv" / "part-00000.tsv").read_bytes()
    lines = text.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 50
    columns = draw_columns(SEED, 0, 50)
    for row, line in enumerate(lines):
        fields = line.decode().split("\t")
        integers = [str(v) for v in columns.integers[:, row]]
        expected = integers + [f"{v:08x}" for v in columns.ids[:, row]]
        assert fields[1:] == [
            "" if gone else text for text, gone in zip(expected, columns.missing[:, row], strict=True)
        ]


def test_rows_depend_on_no_thread_file_or_row_group(tmp_path, hex_folder, monkeypatch):
    write_click_logs(tmp_path / "one", ROWS, seed=SEED, files=1, threads=1)
    write_click_logs(tmp_path / "many", ROWS, seed=SEED, files=7, threads=5, row_group_rows=333)
    rows = pl.read_parquet(hex_folder / "*.parquet")
    assert rows.equals(pl.read_parquet(tmp_path / "one" / "*.parquet"))
    assert rows.equals(pl.read_parquet(tmp_path / "many" / "*.parquet"))
    aucs = {(i.auc_ceiling, i.positive_rate) for i in map(read_info, (hex_folder, tmp_path / "one", tmp_path / "many"))}
    assert len(aucs) == 1
    monkeypatch.setattr(synthetic, "MAX_AUC_ROWS", ROWS - 1)
    sampled = write(tmp_path / "sampled")
    assert sampled.auc_ceiling == pytest.approx(aucs.pop()[0], abs=1e-12)


def test_more_rows_keep_the_first_ones_and_another_seed_none(tmp_path, hex_folder):
    write(tmp_path / "more", rows=ROWS + 500)
    write_click_logs(tmp_path / "other", ROWS, seed=SEED + 1)
    rows = pl.read_parquet(hex_folder / "*.parquet")
    assert rows.equals(pl.read_parquet(tmp_path / "more" / "*.parquet")[:ROWS])
    other = pl.read_parquet(tmp_path / "other" / "*.parquet")
    assert not set(rows["C1"]) & set(other["C1"])


def test_fewer_rows_than_files(tmp_path):
    info = write(tmp_path / "few", rows=3)
    assert info.files == len(list((tmp_path / "few").glob("*.parquet"))) == 3
    assert write(tmp_path / "one", rows=1).auc_ceiling == 0.5


def test_ids_stay_within_the_cardinalities_and_follow_a_power_law(drawn):
    columns = drawn[0]
    for name, ids in zip(ID_FIELDS, columns.ids, strict=True):
        counts = np.sort(np.unique(ids, return_counts=True)[1])[::-1]
        assert len(counts) <= CARDINALITIES[name]
        if CARDINALITIES[name] < 1_000:
            assert len(counts) == CARDINALITIES[name]
        if CARDINALITIES[name] > 1_000:
            assert counts[0] > 5 * counts[min(200, len(counts) - 1)]


def test_integers_are_heavy_tailed(drawn):
    for name, values in zip(INTEGER_FIELDS, drawn[0].integers, strict=True):
        assert values.min() == (-2 if name == "I2" else 0)
        assert values.max() > 10 * max(1.0, np.median(values)) or name == "I10"


def test_missing_rates_and_groups(drawn):
    missing = dict(zip(FIELDS, drawn[0].missing, strict=True))
    for name, gone in missing.items():
        group = MISSING_WITH.get(name, name)
        assert gone.mean() == pytest.approx(MISSING_RATES.get(group, 0.0), abs=0.006)
        assert np.array_equal(gone, missing[group])


def test_the_three_parts_carry_the_weight_they_should(drawn):
    _, parts, truth = drawn
    lift = expected_auc(truth, truth) - 0.5
    assert expected_auc(truth, parts.dense) - 0.5 <= 0.5 * lift
    assert expected_auc(truth, parts.dense + parts.ids) - 0.5 <= 0.92 * lift
    assert expected_auc(truth, parts.dense + parts.pairs) - 0.5 <= 0.8 * lift
    assert truth.mean() == pytest.approx(0.25, abs=0.005)


def test_pairs_cannot_be_had_from_single_ids(drawn):
    columns, parts, _ = drawn
    for names in PAIR_TERMS:
        for name in names:
            ids = columns.ids[ID_FIELDS.index(name.partition(":")[0])]
            _, group, counts = np.unique(ids, return_inverse=True, return_counts=True)
            means = np.bincount(group, parts.pairs) / counts
            noise = len(counts) / len(ids)
            assert (means[group] ** 2).mean() < parts.pairs.var() * (0.01 + 2 * noise)


def test_ceiling_is_the_auc_of_the_true_probabilities(drawn):
    _, _, truth = drawn
    labels = planted_model(SEED).labels(0, truth)
    rank = np.empty(len(truth))
    rank[np.argsort(truth)] = np.arange(len(truth))
    positives = labels.sum()
    auc = (rank[labels == 1].sum() - positives * (positives - 1) / 2) / (positives * (len(truth) - positives))
    assert exact_aucs(SEED, 0, len(truth))[0] == pytest.approx(auc, abs=0.006)


def test_expected_auc_against_all_pairs():
    rng = np.random.default_rng(0)
    p = rng.random(60)
    for score in (p, rng.integers(0, 5, 60).astype(float), np.zeros(60)):
        weight = p[:, None] * (1 - p)[None, :]
        np.fill_diagonal(weight, 0.0)
        won = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
        assert expected_auc(p, score) == pytest.approx((weight * won).sum() / weight.sum(), abs=1e-12)


def test_long_runs_are_sampled(monkeypatch):
    whole = exact_aucs(SEED, 0, 80_000)
    monkeypatch.setattr(synthetic_model, "MAX_AUC_ROWS", 20_000)
    monkeypatch.setattr(synthetic_model, "BLOCK_ROWS", 5_000)
    assert exact_aucs(SEED, 0, 80_000) == pytest.approx(whole, abs=0.006)
    assert exact_aucs(SEED, 0, 80_000) != whole


def test_every_term_names_a_field():
    for terms in (DENSE_TERMS, ID_TERMS, PAIR_TERMS):
        assert {name.partition(":")[0] for names in terms for name in names} <= set(FIELDS)


def test_sidecar(hex_folder):
    info = read_info(hex_folder)
    assert info == read_info(hex_folder / "synthetic.json")
    assert (info.rows, info.seed, info.format, info.hex_ids, info.files) == (ROWS, SEED, "parquet", True, 4)
    assert info.cardinalities == CARDINALITIES
    rows = pl.read_parquet(hex_folder / "*.parquet")
    assert info.positive_rate == pytest.approx(rows["label"].mean())
    assert info.ceiling() == pytest.approx(info.auc_ceiling, abs=1e-12)
    assert info.ceiling(ROWS - ROWS // 10) == pytest.approx(info.auc_ceiling_last_10_pct, abs=1e-12)
    assert 0.5 < info.auc_dense_only < info.auc_ceiling < 1.0
    with pytest.raises(ValueError, match="rows 5999 to 6000 are not in this data of 6000 rows"):
        info.ceiling(ROWS - 1, 2)


def test_sidecar_of_another_kind_is_refused(tmp_path, hex_folder):
    with pytest.raises(DataError, match="cannot be read"):
        read_info(tmp_path)
    for change, message in (({"format_version": 99}, "version 99"), ({"more": 1}, "lacks or adds more")):
        values = json.loads((hex_folder / "synthetic.json").read_text()) | change
        (tmp_path / "synthetic.json").write_text(json.dumps(values))
        with pytest.raises(DataError, match=message):
            read_info(tmp_path)


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DataError, match="is there already"):
        write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty", rows=10).rows == 10


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic.pq.ParquetWriter, "write_table", full)
    with pytest.raises(DataError, match=r"6000 rows .* cannot be written to .*: .*No space left"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_and_stops_the_threads(tmp_path):
    seen = []

    def interrupt(rows):
        seen.append(rows)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert len(seen) <= 4


def test_progress_counts_all_rows(tmp_path):
    seen = []
    write(tmp_path / "out", on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == ROWS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows is 0; give at least 1"),
        ({"files": 0}, "files is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"format": "csv"}, "format is 'csv'; give 'parquet' or 'tsv'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
