"""The instructions of each CPU loop: on x86 with AVX2, what is said to be vectors is vectors."""

import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import njit

from intune_gpu.kernels import fusing, hashing, memory
from intune_gpu.kernels.text_columns import read_hex32, read_int64
from intune_gpu.kernels.text_index import match64

features = llvm.get_host_cpu_features()
pytestmark = pytest.mark.skipif(not features.get("avx2"), reason="this CPU has no AVX2")

TABLE, WHICH, IDS = np.zeros((1, 4), np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64)


def packed(asm: str) -> set[str]:
    """Return the mnemonics that are used on whole vectors of 32 bytes or more."""
    return set(re.findall(r"^\s*(v\w+)\s[^#\n]*%[yz]mm", asm, re.MULTILINE))


def instructions(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """Compile a copy of a compiled function, which may itself come from the cache, and return its vectors'."""
    fresh = njit(nogil=True, error_model="numpy")(function)
    fresh.compile(tuple(_type(a) for a in arguments))
    return packed(fresh.inspect_asm(fresh.signatures[0]))


def _type(value: Any) -> Any:
    from numba import typeof

    return typeof(value)


def chain(*rules: str, dtype: str = "int32") -> set[str]:
    module: dict[str, Any] = {}
    exec(fusing.dense_source(rules, np.dtype(dtype).itemsize == 8).replace("cache=True, ", ""), module)
    floats, spans = np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64)
    arguments = (TABLE, WHICH.reshape(1, 1), floats, floats[0], spans, 1, np.zeros(0, dtype), floats)
    run = module["run"]
    run.compile(tuple(_type(a) for a in arguments))
    return packed(run.inspect_asm(run.signatures[0]))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint8"])
def test_hash_buckets(dtype: str) -> None:
    columns = (TABLE, WHICH, np.zeros((1, 3), np.uint64), 1, np.zeros(0, dtype), IDS, WHICH)
    loop = hashing._hash_steps if hashing._HALVES else hashing.hash_ints_cpu
    source = np.zeros(1, dtype), np.zeros(1, np.uint8), IDS, *[np.uint64(1)] * 3
    found = instructions(loop.py_func, *(source if hashing._HALVES else columns))
    assert found >= ({"vpmuludq", "vpmulld", "vpblendd"} if hashing._HALVES else {"vpmullq"})


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("fill_missing", {"vblendvps|vpblendvb|vblendmps"}),
        ("missing_flag", {"vpmovzx\\w+", "vmovups|vmovaps"}),
        ("clip_min", {"vmaxps|vcmp\\w*ps"}),
        ("clip_max", {"vminps|vcmp\\w*ps"}),
        ("scale", {"vsubps", "vdivps"}),
        ("log1p", {"vfmadd\\w+ps", "vmulps", "vaddps"}),
    ],
)
def test_dense_rules(rule: str, wanted: set[str]) -> None:
    found = chain(rule)
    for pattern in wanted:
        assert any(re.fullmatch(pattern, name) for name in found), (pattern, sorted(found))


def test_null_bits() -> None:
    found = instructions(memory.expand_missing.py_func, np.int64(0), 0, 1, 1, np.zeros(256, np.uint8))
    assert found & {"vpshufb", "vpbroadcastq", "vpermd", "vpbroadcastd"}
    assert any(name.startswith(("vpcmpeqb", "vptestnmb", "vptestmb")) for name in found), found


def test_delimiters() -> None:
    found = instructions(lambda address: match64(address, np.uint8(9)), np.int64(0))
    assert any(name.startswith("vpcmpeqb") for name in found), found


@pytest.mark.parametrize("read", [read_hex32, read_int64])
def test_numbers_in_text(read: Any) -> None:
    words, lengths, faults = np.zeros(8, np.uint64), np.zeros(8, np.int64), np.zeros(8, np.int32)
    if read is read_hex32:
        found = instructions(read.py_func, words, lengths, np.zeros(8, np.uint32), faults, 0)
    else:
        found = instructions(read.py_func, words, lengths, np.zeros(8, np.int64), faults, 0, (0, 0, 0, 0))
    assert "vpaddq" in found, found
    assert found & {"vpor", "vporq", "vpternlogq"}, found
