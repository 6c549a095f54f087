"""A DALI that is missing or too old, and devices that are not there: one sentence each."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.core.gpu import Driver
from intune_gpu.dali.installed import check_device, check_version

ABSENT = """
import sys
sys.modules[sys.argv[1]] = None
try:
    import intune_gpu.dali
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("package", "cure"),
    [
        ("nvidia.dali", 'pip install "intune_gpu[dali]"'),
        ("torch", 'pip install "intune_gpu[train,cpu]", or run make train, which picks versions that fit'),
        ("torchrec", 'pip install "intune_gpu[train,cpu]", or run make train, which picks versions that fit'),
    ],
)
def test_without_a_package(package: str, cure: str) -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT, package], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"MissingPackageError intune_gpu.dali: needs the package {package}, which is not installed; {cure}\n"
    )


@pytest.mark.parametrize("version", ["2.3.9", "1.52.0", "3.0.0", "unknown"])
def test_another_version(version: str) -> None:
    with pytest.raises(MissingPackageError, match=rf"expected DALI 2\.4 or a later 2\.x, found {version}; pip install"):
        check_version(version)


@pytest.mark.parametrize("version", ["2.4.0", "2.10.1", "2.5.0dev.20261101"])
def test_versions_that_will_do(version: str) -> None:
    check_version(version)


def test_devices() -> None:
    check_device(None)
    absent = Driver(None, fault="libcuda.so.1: cannot open shared object file")
    for number, driver, words in (
        (
            0,
            absent,
            r"a GPU, of which there is none, since NVIDIA's driver cannot be loaded \(libcuda.so.1: cannot open",
        ),
        (0, Driver((13, 0)), "a GPU, of which the driver shows none, found 0; use device_id=None"),
        (0, Driver((13, 0), fault="error 803: mismatch"), r"the driver shows none \(error 803: mismatch\), found 0"),
        (2, Driver((13, 0), 2), "the number of a GPU 0 to 1, found 2"),
        (-1, Driver((13, 0), 2), "the number of a GPU 0 to 1, found -1"),
        (True, Driver((13, 0), 2), "found True"),
        (1.0, Driver((13, 0), 2), r"found 1\.0"),
    ):
        with pytest.raises(DeviceError, match=words):
            check_device(number, driver)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for CUDA")
def test_a_torch_that_cannot_use_the_gpu() -> None:
    words = (
        "device_id: device cuda:1: expected an NVIDIA GPU, and torch .* is built for the CPU only; use device_id=None$"
    )
    with pytest.raises(DeviceError, match=words):
        check_device(1, Driver((13, 0), 2))
