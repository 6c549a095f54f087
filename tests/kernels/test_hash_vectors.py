"""Hash version 1 against its vectors: the oracle, the kernels, and what a user gets from `ig.transform`.

The vectors below are frozen here; `../shared/vectors/hash_v1.json` has more, and is read where it is there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import intune_gpu as ig
from intune_gpu.kernels import hashing, xxh64
from tests import naive
from tests.shared_data import HASH_VECTORS, needs

# (value, seed, id64)
ID64: list[tuple[int | str, int, int]] = [
    (0, 0, 3803688792395291579),
    (0, 2**64 - 1, 6969488659866480985),
    (1, 0, 11468921228449061269),
    (1, 2**64 - 1, 933011005340469151),
    (-1, 0, 9642548396912002761),
    (-1, 2**64 - 1, 1879562989665167537),
    (127, 0, 3642125596470818657),
    (127, 2**64 - 1, 15101419665575721342),
    (-128, 0, 16054207287465832778),
    (-128, 2**64 - 1, 5191503579826199889),
    (255, 0, 3071572455738007615),
    (255, 2**64 - 1, 12536895394909704618),
    (2147483647, 0, 6040406647911695984),
    (2147483647, 2**64 - 1, 8359886717171618953),
    (-2147483648, 0, 791505500376733863),
    (-2147483648, 2**64 - 1, 7165033686111739911),
    (4294967295, 0, 18227574380492395291),
    (4294967295, 2**64 - 1, 11411519746004105821),
    (9007199254740993, 0, 16579861374343332454),
    (9007199254740993, 2**64 - 1, 17946301010419335734),
    (9223372036854775807, 0, 18406436390665352972),
    (9223372036854775807, 2**64 - 1, 5707171258397158057),
    (-9223372036854775808, 0, 4558309869707674848),
    (-9223372036854775808, 2**64 - 1, 12735533757329272870),
    ("", 0, 17241709254077376921),
    ("", 2**64 - 1, 2994696410035606400),
    ("a", 0, 15154266338359012955),
    ("a", 2**64 - 1, 6972758980737027682),
    ("abc", 0, 4952883123889572249),
    ("abc", 2**64 - 1, 2895935887265243510),
    ("abcd", 0, 15997673941747208908),
    ("abcd", 2**64 - 1, 13885272270521641172),
    ("1234567", 0, 15250435807369532249),
    ("1234567", 2**64 - 1, 16629141936724841695),
    ("68fd1e64", 0, 6718470718629228516),
    ("68fd1e64", 2**64 - 1, 4958915605307561184),
    ("123456789", 0, 10139926970967174787),
    ("123456789", 2**64 - 1, 5976823647211216061),
    ("x" * 16, 0, 392565628354714129),
    ("x" * 16, 2**64 - 1, 2802161168336788220),
    ("y" * 31, 0, 14474974188117071360),
    ("y" * 31, 2**64 - 1, 13857562258524226047),
    ("z" * 32, 0, 6856128287974695777),
    ("z" * 32, 2**64 - 1, 14168653424589343170),
    ("w" * 33, 0, 13043127289904703527),
    ("w" * 33, 2**64 - 1, 8334220125887739836),
    ("v" * 63, 0, 7148615438575783695),
    ("v" * 63, 2**64 - 1, 7308199263844133343),
    ("u" * 64, 0, 18016024322468724783),
    ("u" * 64, 2**64 - 1, 3749597695409881673),
    ("t" * 65, 0, 1163705572007982561),
    ("t" * 65, 2**64 - 1, 2950128541077040859),
    ("日本語", 0, 8176744303664166369),
    ("日本語", 2**64 - 1, 17232378181250488078),
    ("🎬 film", 0, 9658121258128152961),
    ("🎬 film", 2**64 - 1, 7690340110494056581),
    ("\0", 0, 16804241149081757544),
    ("\0", 2**64 - 1, 10061941552271555728),
]

# (salt, recipe seed, feature seed)
FEATURE_SEEDS = [
    ("", 0, 17241709254077376921),
    ("", 2**63, 14928702688547455199),
    ("C1", 0, 1953052475120754509),
    ("C1", 2**63, 12514268106567994104),
    ("C26", 0, 145365251693342789),
    ("C26", 2**63, 17154804171576702508),
    ("user_id", 0, 16877539825761227546),
    ("user_id", 2**63, 16013047686393325744),
    ("日本", 0, 9278228920455835563),
    ("日本", 2**63, 8550111340694489170),
]

# (value, salt, recipe seed, num_buckets, reserved, id)
HASH_BUCKETS: list[tuple[int | str | None, str, int, int, int, int]] = [
    (None, "C1", 0, 100000, 1, 0),
    (0, "C1", 0, 100000, 1, 91567),
    (5, "C1", 0, 100000, 1, 59337),
    (-1, "C1", 0, 100000, 1, 97808),
    (-128, "C1", 0, 100000, 1, 37811),
    (9223372036854775807, "C1", 0, 100000, 1, 94874),
    ("", "C1", 0, 100000, 1, 20936),
    ("a", "C1", 0, 100000, 1, 55395),
    ("68fd1e64", "C1", 0, 100000, 1, 35787),
    ("日本語", "C1", 0, 100000, 1, 9611),
    ("z" * 32, "C1", 0, 100000, 1, 85597),
    ("t" * 65, "C1", 0, 100000, 1, 50921),
    (None, "user_id", 2**64 - 1, 2**31, 1, 0),
    (0, "user_id", 2**64 - 1, 2**31, 1, 1256969281),
    (5, "user_id", 2**64 - 1, 2**31, 1, 746565825),
    (-1, "user_id", 2**64 - 1, 2**31, 1, 1046134781),
    (-128, "user_id", 2**64 - 1, 2**31, 1, 1779035955),
    (9223372036854775807, "user_id", 2**64 - 1, 2**31, 1, 232606151),
    ("", "user_id", 2**64 - 1, 2**31, 1, 2062095555),
    ("a", "user_id", 2**64 - 1, 2**31, 1, 314898792),
    ("68fd1e64", "user_id", 2**64 - 1, 2**31, 1, 1915416901),
    ("日本語", "user_id", 2**64 - 1, 2**31, 1, 133852348),
    ("z" * 32, "user_id", 2**64 - 1, 2**31, 1, 601918914),
    ("t" * 65, "user_id", 2**64 - 1, 2**31, 1, 619305791),
    (None, "tiny", 7, 2, 1, 0),
    (0, "tiny", 7, 2, 1, 1),
    (5, "tiny", 7, 2, 1, 1),
    (-1, "tiny", 7, 2, 1, 1),
    (-128, "tiny", 7, 2, 1, 1),
    (9223372036854775807, "tiny", 7, 2, 1, 1),
    ("", "tiny", 7, 2, 1, 1),
    ("a", "tiny", 7, 2, 1, 1),
    ("68fd1e64", "tiny", 7, 2, 1, 1),
    ("日本語", "tiny", 7, 2, 1, 1),
    ("z" * 32, "tiny", 7, 2, 1, 1),
    ("t" * 65, "tiny", 7, 2, 1, 1),
    (None, "r", 7, 1000, 17, 0),
    (0, "r", 7, 1000, 17, 703),
    (5, "r", 7, 1000, 17, 89),
    (-1, "r", 7, 1000, 17, 37),
    (-128, "r", 7, 1000, 17, 125),
    (9223372036854775807, "r", 7, 1000, 17, 680),
    ("", "r", 7, 1000, 17, 399),
    ("a", "r", 7, 1000, 17, 51),
    ("68fd1e64", "r", 7, 1000, 17, 29),
    ("日本語", "r", 7, 1000, 17, 930),
    ("z" * 32, "r", 7, 1000, 17, 375),
    ("t" * 65, "r", 7, 1000, 17, 825),
]

# (values, salt, recipe seed, num_buckets, reserved, id)
CROSSES: list[tuple[tuple[int | str | None, ...], str, int, int, int, int]] = [
    ((1, 2), "a_x_b", 0, 1000003, 1, 437959),
    ((1, 2), "a_x_b", 2**63, 2**31, 4, 640922258),
    ((2, 1), "a_x_b", 0, 1000003, 1, 372762),
    ((2, 1), "a_x_b", 2**63, 2**31, 4, 175959885),
    ((5, 5), "a_x_b", 0, 1000003, 1, 439740),
    ((5, 5), "a_x_b", 2**63, 2**31, 4, 1659573373),
    ((None, 5), "a_x_b", 0, 1000003, 1, 157067),
    ((None, 5), "a_x_b", 2**63, 2**31, 4, 1793412588),
    ((5, None), "a_x_b", 0, 1000003, 1, 973914),
    ((5, None), "a_x_b", 2**63, 2**31, 4, 253997605),
    ((None, None), "a_x_b", 0, 1000003, 1, 460825),
    ((None, None), "a_x_b", 2**63, 2**31, 4, 1242283691),
    (("a", "b"), "a_x_b", 0, 1000003, 1, 208034),
    (("a", "b"), "a_x_b", 2**63, 2**31, 4, 386584535),
    (("b", "a"), "a_x_b", 0, 1000003, 1, 366119),
    (("b", "a"), "a_x_b", 2**63, 2**31, 4, 910452357),
    (("", 0), "a_x_b", 0, 1000003, 1, 58013),
    (("", 0), "a_x_b", 2**63, 2**31, 4, 1990368197),
    (("68fd1e64", 7, -3), "a_x_b", 0, 1000003, 1, 750601),
    (("68fd1e64", 7, -3), "a_x_b", 2**63, 2**31, 4, 298363054),
    ((1, 2, 3, 4, 5), "a_x_b", 0, 1000003, 1, 543079),
    ((1, 2, 3, 4, 5), "a_x_b", 2**63, 2**31, 4, 1619013225),
]

# ------------------------------------------------------------------------------------------------- the shared vectors


def value_of(text: str | None, kind: str) -> int | str | None:
    return None if text is None else int(text) if kind == "int64" else text


def shared() -> dict[str, list[Any]]:
    """Return the shared vectors in the shape of those above."""
    read = json.loads(HASH_VECTORS.read_text(encoding="utf-8"))
    assert read["hash_version"] == 1

    def tail(v: dict[str, Any]) -> tuple[str, int, int, int, int]:
        return v["salt"], int(v["recipe_seed"]), v["num_buckets"], v["reserved"], v["id"]

    return {
        "id64": [(value_of(v["value"], v["type"]), int(v["seed"]), int(v["id64"])) for v in read["id64"]],
        "feature_seed": [(v["salt"], int(v["recipe_seed"]), int(v["feature_seed"])) for v in read["feature_seed"]],
        "hash_bucket": [(value_of(v["value"], v["type"]), *tail(v)) for v in read["hash_bucket"]],
        "cross": [(tuple(map(value_of, v["values"], v["types"])), *tail(v)) for v in read["cross"]],
    }


@pytest.fixture(scope="module", params=["own", pytest.param("shared", marks=needs(HASH_VECTORS))])
def vectors(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    if request.param == "shared":
        return shared()
    return {"id64": ID64, "feature_seed": FEATURE_SEEDS, "hash_bucket": HASH_BUCKETS, "cross": CROSSES}


# --------------------------------------------------------------------------------------------------------- the oracle


def test_naive(vectors):
    assert [naive.id64(value, seed) for value, seed, _ in vectors["id64"]] == [v[-1] for v in vectors["id64"]]
    assert [naive.feature_seed(*v[:2]) for v in vectors["feature_seed"]] == [v[-1] for v in vectors["feature_seed"]]
    for name, rule in (("hash_bucket", naive.hash_bucket), ("cross", naive.cross)):
        for value, salt, seed, n, reserved, expected in vectors[name]:
            assert rule(value, n, reserved, naive.feature_seed(salt, seed)) == expected, (name, value)


# -------------------------------------------------------------------------------------------------------- the kernels


def kernel_id64(value: int | str, seed: int) -> int:
    if isinstance(value, str):
        data = np.frombuffer(b"?" + value.encode(), np.uint8)[1:]  # at an odd address
        return int(hashing.id64_of_bytes(data, np.uint64(seed)))
    return int(xxh64.id64_int_rule(np.uint64(value % 2**64), np.uint64(seed)))


def test_kernels(vectors):
    assert [kernel_id64(value, seed) for value, seed, _ in vectors["id64"]] == [v[-1] for v in vectors["id64"]]
    assert [hashing.feature_seed(*v[:2]) for v in vectors["feature_seed"]] == [v[-1] for v in vectors["feature_seed"]]
    for value, salt, seed, n, reserved, expected in vectors["hash_bucket"]:
        if value is not None:
            h = np.uint64(kernel_id64(value, hashing.feature_seed(salt, seed)))
            assert reserved + int(xxh64.bucket_rule(h, np.uint64(n - reserved))) == expected, value


# ---------------------------------------------------------------------------------------------------- the public path


def by_recipe(vectors: list[Any]) -> dict[tuple[Any, ...], list[tuple[Any, int]]]:
    """Group values and ids by what makes a recipe: salt, seed, buckets, reserved."""
    groups = defaultdict(list)
    for value, *parameters, expected in vectors:
        groups[tuple(parameters)].append((value, expected))
    return groups


def ids(table: pa.Table, op: Any, seed: int) -> list[int]:
    table = table.append_column("label", pa.array([0.0] * len(table), pa.float32()))
    batch = ig.transform(table, ig.Recipe(label="label", sparse={"f": [ig.Column("a"), op]}, seed=seed), device="cpu")
    assert batch.sparse.lengths().tolist() == [1] * len(table)
    return batch.sparse.values().tolist()


def arrays(values: list[int | str | None]) -> list[pa.Array]:
    """Return the values in each Arrow type that holds all of them."""
    kinds = [pa.string(), pa.large_string()]
    if any(isinstance(v, int) for v in values):
        kinds = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    made = []
    for kind in kinds:
        try:
            made.append(pa.array(values, kind))
        except (pa.ArrowInvalid, OverflowError):
            continue
    return made


def test_hash_bucket_through_transform(vectors):
    for (salt, seed, n, reserved), pairs in by_recipe(vectors["hash_bucket"]).items():
        op = ig.HashBucket(n, reserved=reserved, salt=salt)
        for kind in (int, str):
            chosen = [(v, i) for v, i in pairs if v is None or isinstance(v, kind)]
            for column in arrays([v for v, _ in chosen]):
                assert ids(pa.table({"a": column}), op, seed) == [i for _, i in chosen], (column.type, op)


def test_widths_agree(vectors):
    """An int32 5 and an int64 5 have one id, in every width that holds the value."""
    for (salt, seed, n, reserved), pairs in by_recipe(vectors["hash_bucket"]).items():
        for value, expected in pairs[:8]:
            for column in arrays([value]):
                op = ig.HashBucket(n, reserved=reserved, salt=salt)
                assert ids(pa.table({"a": column}), op, seed) == [expected], (column.type, value)


def test_cross_through_transform(vectors):
    for values, salt, seed, n, reserved, expected in vectors["cross"]:
        names = [f"c{i}" for i in range(len(values))]
        for kind in (pa.int64(), pa.string()):  # of a missing value
            columns = [pa.array([v], kind if v is None else pa.infer_type([v])) for v in values]
            table = pa.table([*columns, pa.array([0.0])], names=[*names, "label"])
            op = ig.Cross(names, n, reserved=reserved, salt=salt)
            batch = ig.transform(table, ig.Recipe(label="label", sparse={"f": [op]}, seed=seed), device="cpu")
            assert batch.sparse.values().tolist() == [expected], values


def test_the_salt_is_the_features_name_unless_given():
    table = pa.table({"C1": pa.array([1, 2, 3]), "label": pa.array([0.0, 0.0, 0.0])})
    recipe = ig.Recipe(
        label="label",
        sparse={
            "C1": [ig.HashBucket(1000)],
            "other": [ig.Column("C1"), ig.HashBucket(1000)],
            "same": [ig.Column("C1"), ig.HashBucket(1000, salt="C1")],
            "empty": [ig.Column("C1"), ig.HashBucket(1000, salt="")],
        },
        seed=9,
    )
    got = {key: jagged.values().tolist() for key, jagged in ig.transform(table, recipe).sparse.to_dict().items()}
    for key, salt in (("C1", "C1"), ("other", "other"), ("same", "C1"), ("empty", "")):
        seed = naive.feature_seed(salt, 9)
        assert got[key] == [naive.hash_bucket(v, 1000, 1, seed) for v in (1, 2, 3)]
    assert got["C1"] == got["same"] != got["other"]
