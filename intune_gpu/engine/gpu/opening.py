"""From what a user writes for a device to the device, or one sentence about why it cannot be used."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.engine.gpu.device import CudaDevice, Device

WAY_OUT = 'use device="cpu", which gives the same batches'


def open_device(device: Any) -> Device | None:
    """Return the device that batches are to come to stand on, or None for host memory.

    Args:
        device: "cpu"; "cuda" or "cuda:1"; "auto", which takes an NVIDIA GPU if there is one that can be used; a
            `torch.device`; or an object that implements `engine.gpu.device.Device`.

    Raises:
        DeviceError: there is no such device, or it cannot be used.
        MissingPackageError: numba-cuda is not installed.
        ValueError: it is none of these.
    """
    if device == "auto":
        usable = torch.cuda.is_available() and importlib.util.find_spec("numba_cuda") is not None
        return _cuda(torch.device("cuda")) if usable else None
    if isinstance(device, str | torch.device):
        where = _parsed(device)
        return None if where.type == "cpu" else _cuda(where)
    if hasattr(device, "launch") and hasattr(device, "mark"):
        opened: Device = device
        return opened
    raise ValueError(f'device: expected "auto", "cpu", "cuda" or "cuda:<number>", found {device!r}')


def _parsed(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        where = torch.device("meta")
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f'device: expected "auto", "cpu", "cuda" or "cuda:<number>", found {str(device)!r}')
    return where


def _cuda(where: torch.device) -> Device:
    if not torch.cuda.is_available():
        built = "sees none" if torch.version.cuda else "is built for the CPU only"
        raise DeviceError(f"device {where}: expected an NVIDIA GPU, and torch {torch.__version__} {built}; {WAY_OUT}")
    count = torch.cuda.device_count()
    if where != torch.device("cuda") and where.index >= count:
        raise DeviceError(f"device {where}: expected cuda:0 to cuda:{count - 1}, found {where}; {WAY_OUT}")
    if importlib.util.find_spec("numba_cuda") is None:
        raise MissingPackageError(
            f"device {where}: needs the package numba-cuda, which is not installed; "
            f'pip install "intune_gpu[cuda]", or {WAY_OUT}'
        )
    return CudaDevice(where)
