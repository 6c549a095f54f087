"""A DALI that is missing or too old, and devices that are not there: one sentence each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.dali.installed import check_device, check_version

ABSENT = """
import sys
sys.modules["nvidia.dali"] = None
try:
    import intune_gpu.dali
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_without_dali() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MissingPackageError intune_gpu.dali: needs the package nvidia.dali, which is not installed; "
        'pip install "intune_gpu[dali]"\n'
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
    for number, gpus, words in (
        (0, 0, "no number, since the driver shows no GPU, found 0"),
        (2, 2, "of a GPU 0 to 1, found 2"),
        (-1, 2, "of a GPU 0 to 1, found -1"),
        (True, 2, "found True"),
        (1, 2, r"in host memory only, found 1; .*Loader\(\.\.\., device=\"cuda:1\"\)"),
    ):
        with pytest.raises(DeviceError, match=words):
            check_device(number, gpus)
