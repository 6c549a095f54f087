"""CuPy beside torch: what can be seen without a GPU; tests/gpu has the rest."""

from __future__ import annotations

import importlib.util

import pytest

import intune_gpu as ig

without_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")


@without_cupy
def test_without_cupy_one_sentence() -> None:
    sentence = r'needs the package cupy, which is not installed; pip install "intune_gpu\[cuda\]"'
    with pytest.raises(ig.MissingPackageError, match=f"CuPy on the memory of torch: {sentence}"), ig.torch_memory():
        pass
    with pytest.raises(ig.MissingPackageError, match=f"sorted distinct values on a GPU: {sentence}"):
        ig.sorted_uniques([1, 2])
