"""What is said of drivers that are compiled for the purpose, and of none."""

from __future__ import annotations

import ctypes.util
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from intune_gpu.core.gpu import Driver, find_driver
from tests.fake_driver import make_driver

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that compiles a driver, and returns where it is."""
    count = itertools.count()  # a library is loaded once only by the same name
    return lambda **says: make_driver(tmp_path / f"libcuda{next(count)}.so", **says)


def test_a_driver_tells_its_version_and_its_gpus(make: Make, tmp_path: Path) -> None:
    (tmp_path / "version").touch()
    found = find_driver(make(version=12040, gpus=8), "no-such-library.so", str(tmp_path / "version"))
    assert found == Driver((12, 4), 8, None, module=True, nvml=False)


def test_nvml_is_looked_for_by_itself(make: Make) -> None:
    driver = make()
    assert find_driver(driver, driver, "/no/such/file") == Driver((13, 0), 1, None, module=False, nvml=True)


def test_a_driver_without_a_gpu_is_no_fault(make: Make) -> None:
    assert find_driver(make(init=100), "none.so", "/none") == Driver((13, 0))
    assert find_driver(make(gpus=0), "none.so", "/none") == Driver((13, 0))


def test_a_driver_that_does_not_start_says_why(make: Make) -> None:
    found = find_driver(make(init=803), "none.so", "/none")
    assert found == Driver((13, 0), 0, "error 803: system has unsupported display driver")
    assert find_driver(make(init=999), "none.so", "/none").fault == "error 999"


def test_no_driver_is_told_by_the_loader() -> None:
    found = find_driver("libno-such-driver.so.1", "none.so", "/none")
    assert (found.cuda, found.gpus, found.nvml) == (None, 0, False)
    assert "libno-such-driver.so.1: cannot open shared object file" in str(found.fault)


def test_another_library_of_that_name_is_no_driver() -> None:
    libc = ctypes.util.find_library("c") or pytest.skip("the C library is not found by name")
    found = find_driver(libc, "none.so", "/none")
    assert found.cuda is None
    assert "cuDriverGetVersion" in str(found.fault)
