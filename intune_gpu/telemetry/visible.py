"""Which GPUs this process may use: `CUDA_VISIBLE_DEVICES` as CUDA reads it, in the handles of NVML.

NVML counts GPUs in the order of their PCI addresses and knows nothing of the variable. CUDA counts them so only with
`CUDA_DEVICE_ORDER=PCI_BUS_ID`, else the fastest first, which is the same where all GPUs are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_handles(api: Any, environment: Mapping[str, str]) -> tuple[Any, ...]:
    """Return NVML's handles of the GPUs that CUDA shows, in CUDA's order.

    Args:
        api: the module `pynvml`, initialised.
        environment: with `CUDA_VISIBLE_DEVICES`: indices, or UUIDs that begin with "GPU-" or "MIG-", which may be
            abbreviated for whole GPUs. As for CUDA, the list ends at the first entry that names no GPU.

    Raises:
        pynvml.NVMLError: NVML does not answer.
    """
    count = int(api.nvmlDeviceGetCount())
    listed = environment.get(VARIABLE)
    if listed is None:
        return tuple(api.nvmlDeviceGetHandleByIndex(index) for index in range(count))
    return tuple(_handles(api, listed, count))


def _handles(api: Any, listed: str, count: int) -> Iterator[Any]:
    for entry in (part.strip() for part in listed.split(",")):
        if entry.startswith("MIG-"):
            handle = _by_uuid(api, entry)
        elif entry.startswith("GPU-"):
            handle = _by_prefix(api, entry, count)
        elif entry.isdecimal() and int(entry) < count:
            handle = api.nvmlDeviceGetHandleByIndex(int(entry))
        else:
            handle = None
        if handle is None:
            return
        yield handle


def _by_uuid(api: Any, uuid: str) -> Any | None:
    try:
        return api.nvmlDeviceGetHandleByUUID(uuid)
    except api.NVMLError as error:
        if error.value in (api.NVML_ERROR_NOT_FOUND, api.NVML_ERROR_INVALID_ARGUMENT):
            return None
        raise


def _by_prefix(api: Any, prefix: str, count: int) -> Any | None:
    handles = [api.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    named = [handle for handle in handles if str(api.nvmlDeviceGetUUID(handle)).startswith(prefix)]
    return named[0] if len(named) == 1 else None  # two of that beginning are none, as for CUDA
