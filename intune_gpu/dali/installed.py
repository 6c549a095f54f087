"""Whether the DALI that is installed, and the device that is asked for, will do."""

from __future__ import annotations

import re

from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.core.gpu import find_driver
from intune_gpu.core.packages import EXTRAS, need

OLDEST = (2, 4)
"""Of DALI, major and minor; the next major may be another thing."""
_NAME = "intune_gpu.dali"


def check_installed() -> None:
    """Import DALI.

    Raises:
        MissingPackageError: it is not installed, cannot be imported, or is of another version.
    """
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


def check_device(device_id: int | None, gpus: int | None = None) -> None:
    """Refuse a device that is not there, or that batches cannot be made on.

    Args:
        device_id: None for host memory, or the number of a GPU.
        gpus: how many there are; None to ask the driver.

    Raises:
        DeviceError: it is not None.
    """
    if device_id is None:
        return
    count = find_driver().gpus if gpus is None else gpus
    if isinstance(device_id, bool) or not isinstance(device_id, int) or not 0 <= device_id < count:
        there = f"0 to {count - 1}" if count else "no number, since the driver shows no GPU"
        raise DeviceError(
            f"device_id: expected None for host memory, or of a GPU {there}, found {device_id!r}; use device_id=None"
        )
    raise DeviceError(
        f"device_id: expected None, since inside DALI batches are made in host memory only, found {device_id}; use "
        f'device_id=None, or intune_gpu.Loader(..., device="cuda:{device_id}")'
    )
