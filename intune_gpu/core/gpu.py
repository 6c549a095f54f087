"""What the NVIDIA driver says of itself, asked without torch, CUDA or NVML packages."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

DRIVER = "libcuda.so.1"
NVML = "libnvidia-ml.so.1"
MODULE = "/proc/driver/nvidia/version"

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class Driver:
    """An NVIDIA driver as this process sees it.

    Attributes:
        cuda: the newest CUDA that it runs, major and minor; None where its library cannot be loaded.
        gpus: how many it shows.
        fault: why it cannot be used, in the words of the loader or the driver; None where it can.
        module: whether the kernel has it loaded; it has in a container that was started without the GPU, too.
        nvml: whether its monitoring library can be loaded.
    """

    cuda: tuple[int, int] | None
    gpus: int = 0
    fault: str | None = None
    module: bool = False
    nvml: bool = False


def find_driver(driver: str = DRIVER, nvml: str = NVML, module: str = MODULE) -> Driver:
    """Ask the driver; it takes some 100 ms where there is a GPU.

    Args:
        driver: name or path of the driver's library.
        nvml: of its monitoring library.
        module: the file by which the kernel tells that it has loaded it.
    """
    there = Path(module).exists()
    try:
        library = ctypes.CDLL(driver)
        version = ctypes.c_int(0)
        code = library.cuDriverGetVersion(ctypes.byref(version))
        cuda = (version.value // 1000, version.value % 1000 // 10)
        code = code or library.cuInit(0)
        count = ctypes.c_int(0)
        code = code or library.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError) as error:  # AttributeError: another library of that name
        return Driver(None, fault=str(error), module=there)
    fault = None if code in (0, _NO_DEVICE) else _words(library, code)
    return Driver(cuda, 0 if code else count.value, fault, there, _loads(nvml))


def _words(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorString(code, ctypes.byref(text)) or text.value is None:
        return f"error {code}"
    return f"error {code}: {text.value.decode(errors='replace')}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
