"""Whether the DALI that is installed, and the device that is asked for, will do."""

from __future__ import annotations

import re

from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.core.gpu import Driver, find_driver
from intune_gpu.core.packages import EXTRAS, need

OLDEST = (2, 4)
"""Of DALI, major and minor; the next major may be another thing."""
_NAME = "intune_gpu.dali"


def check_installed() -> None:
    """Import DALI, and what batches are made of.

    Raises:
        MissingPackageError: one is not installed, cannot be imported, or is of another version.
    """
    for package in ("torch", "torchrec"):
        need(package, _NAME)
    check_version(str(need("nvidia.dali", _NAME).__version__))


def check_version(version: str) -> None:
    """Refuse a DALI that this package was not made for.

    Raises:
        MissingPackageError: it is older than `OLDEST`, or of another major version.
    """
    digits = re.match(r"(\d+)\.(\d+)", version)
    found = (int(digits[1]), int(digits[2])) if digits else (0, 0)
    if found < OLDEST or found[0] != OLDEST[0]:
        least = ".".join(map(str, OLDEST))
        raise MissingPackageError(
            f"{_NAME}: expected DALI {least} or a later {OLDEST[0]}.x, found {version}; "
            f'pip install "intune_gpu[{EXTRAS["nvidia.dali"]}]"'
        )


def check_device(device_id: int | None, driver: Driver | None = None) -> None:
    """Refuse a device that is not there, or that batches cannot be made on.

    Args:
        device_id: None for host memory, or the number of a GPU.
        driver: what it says of itself; None to ask it.

    Raises:
        DeviceError: there is no such GPU, or torch cannot use it.
        MissingPackageError: numba-cuda is not installed.
    """
    from intune_gpu.engine.gpu.opening import WAY_OUT, open_device  # it imports torch, which may not be there

    if device_id is None:
        return
    driver = find_driver() if driver is None else driver
    count = driver.gpus
    if isinstance(device_id, bool) or not isinstance(device_id, int) or not 0 <= device_id < count:
        there = f"of a GPU 0 to {count - 1}" if count else f"of a GPU, of which {_lack(driver)}"
        raise DeviceError(
            f"device_id: expected None for host memory, or the number {there}, found {device_id!r}; use device_id=None"
        )
    try:
        open_device(f"cuda:{device_id}")
    except DeviceError as error:
        raise DeviceError(f"device_id: {str(error).removesuffix(WAY_OUT)}use device_id=None") from error


def _lack(driver: Driver) -> str:
    """Return why there is no GPU, in words."""
    if driver.cuda is None:
        return f"there is none, since NVIDIA's driver cannot be loaded ({driver.fault})"
    return "the driver shows none" + (f" ({driver.fault})" if driver.fault else "")
