"""GPUs, as NVIDIA's management library tells of them. What it cannot tell is absent, and that it fails ends nothing."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intune_gpu.core.signals import GpuSignals
from intune_gpu.telemetry.visible import VARIABLE, visible_handles

PCIE_EVERY_S = 2.0
"""NVML counts PCIe traffic for 20 ms while its caller waits, once for each direction."""
REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "power_cap",
    0x008: "hardware_slowdown",
    0x010: "sync_boost",
    0x020: "software_thermal",
    0x040: "hardware_thermal",
    0x080: "hardware_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Why clocks are lowered, by NVML's bits."""

_log = logging.getLogger(__name__)
# A GPU that says one of these cannot tell such a thing at all (MIG, vGPU, an old driver, no permission), so it is asked
# no more; one that says one of the others has nothing to say just now. Anything else is a fault.
_NEVER = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT", "DEPRECATED")
_NOT_NOW = ("NO_DATA", "NOT_READY", "IN_USE", "TIMEOUT", "INSUFFICIENT_SIZE")


class Gpus:
    """Asks NVML about the GPUs that this process may use. Where it fails, one line says so, and signals are absent.

    Args:
        wanted: which of them, counted as CUDA counts them; None for all.
        api: the module `pynvml`, or what stands for it; None to import it.
        environment: with `CUDA_VISIBLE_DEVICES`.
        clock: seconds.

    Raises:
        ValueError: a number is below 0.
    """

    def __init__(
        self,
        wanted: Sequence[int] | None = None,
        api: Any = None,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if wanted is not None and any(number < 0 for number in wanted):
            raise ValueError(f"gpu_index: expected 0 or more, found {min(wanted)}; give () for no GPU")
        self._api: Any = None
        self._clock = clock
        self._warned = False
        self._gpus: tuple[_Gpu, ...] = ()
        self._slow_at_s = float("-inf")
        if wanted is not None and not wanted:
            return
        api = self._imported() if api is None else api
        if api is not None:
            self._open(wanted, api, environment)

    def take(self) -> tuple[GpuSignals, ...]:
        """Return what each GPU tells, in the order of `wanted`; none without NVML.

        It waits 40 ms a GPU, every `PCIE_EVERY_S`.
        """
        now = self._clock()
        slow = now >= self._slow_at_s + PCIE_EVERY_S
        if slow:
            self._slow_at_s = now
        return tuple(self._signals(gpu, slow) for gpu in self._gpus)

    def close(self) -> None:
        """Let go of NVML. May be called more than once."""
        api, self._api, self._gpus = self._api, None, ()
        if api is not None:
            try:
                api.nvmlShutdown()
            except api.NVMLError as error:
                _log.debug("telemetry: NVML does not shut down (%s)", error)

    def _imported(self) -> Any:
        try:
            import pynvml  # here: who wants no GPU's signals needs not have it
        except ImportError as error:
            self._warn(f"nvidia-ml-py cannot be imported ({error})", "pip install nvidia-ml-py")
            return None
        return pynvml

    def _open(self, wanted: Sequence[int] | None, api: Any, environment: Mapping[str, str]) -> None:
        try:
            api.nvmlInit()
            self._api = api
            handles = visible_handles(api, environment)
            chosen = tuple(range(len(handles)) if wanted is None else wanted)
            self._gpus = tuple(_Gpu(api, handles[number]) for number in chosen if number < len(handles))
        except (api.NVMLError, api.NVMLLibraryMismatchError) as error:
            self.close()
            self._warn(f"NVML does not start ({error})", "nvidia-smi tells more where there is a GPU")
            return
        if len(self._gpus) < len(chosen):
            shown = f"{VARIABLE}={environment[VARIABLE]!r}" if VARIABLE in environment else "NVML"
            self._warn(f"{shown} shows {len(handles)} GPUs, and none of number {max(chosen)}", "look at gpu_index")

    def _signals(self, gpu: _Gpu, slow: bool) -> GpuSignals:
        if not gpu.lost:
            try:
                return gpu.signals(slow)
            except self._api.NVMLError as error:
                gpu.lost = True
                self._warn(f"GPU {gpu.index} stopped answering ({gpu.asked}: {error})", "nvidia-smi tells more")
        return GpuSignals(gpu.index)

    def _warn(self, found: str, way_out: str) -> None:
        """Say it once: what follows from one fault needs no lines of its own."""
        if not self._warned:
            _log.warning("telemetry: %s; signals of GPUs are absent, and the run goes on; %s", found, way_out)
        self._warned = True


class _Gpu:
    """One GPU, or one MIG instance of one.

    Attributes:
        index: NVML's, of the whole GPU.
        lost: whether it stopped answering.
        asked: the last question.
    """

    def __init__(self, api: Any, handle: Any) -> None:
        self._api, self._handle = api, handle
        self._never = {getattr(api, f"NVML_ERROR_{name}") for name in _NEVER}
        self._not_now = {getattr(api, f"NVML_ERROR_{name}") for name in _NOT_NOW}
        self._mute: set[tuple[Any, ...]] = set()
        self._pcie: tuple[float | None, float | None] = (None, None)
        self.lost = False
        self.asked = ""
        whole = handle
        is_instance = self._ask("nvmlDeviceIsMigDeviceHandle")
        if is_instance is not None and is_instance.value:
            whole = api.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        self.index = int(api.nvmlDeviceGetIndex(whole))

    def signals(self, slow: bool) -> GpuSignals:
        """Return what it tells; `slow` asks anew what takes long.

        Raises:
            pynvml.NVMLError: it does not answer any more.
        """
        api = self._api
        if slow:
            self._pcie = self._traffic(api.NVML_PCIE_UTIL_RX_BYTES), self._traffic(api.NVML_PCIE_UTIL_TX_BYTES)
        shares = self._ask("nvmlDeviceGetUtilizationRates")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return GpuSignals(
            index=self.index,
            sm_pct=None if shares is None else float(shares.gpu),
            memory_bus_pct=None if shares is None else float(shares.memory),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_free_bytes=None if memory is None else int(memory.free),
            memory_process_bytes=self._own_bytes(),
            pcie_rx_bytes_per_s=self._pcie[0],
            pcie_tx_bytes_per_s=self._pcie[1],
            power_watts=None if milliwatts is None else milliwatts / 1e3,
            throttle_reasons=self._reasons(),
        )

    def _traffic(self, direction: int) -> float | None:
        kilobytes = self._ask("nvmlDeviceGetPcieThroughput", direction)
        return None if kilobytes is None else kilobytes * 1e3

    def _own_bytes(self) -> int | None:
        """Return what this process holds; inside a container NVML may know it by another number, or by none."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        own = [process.usedGpuMemory for process in processes or () if process.pid == os.getpid()]
        return int(own[0]) if own and own[0] is not None else None

    def _reasons(self) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535 know it by another name
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if bits is None:
            return None
        single = (1 << place for place in range(int(bits).bit_length()) if bits >> place & 1)
        return tuple(REASONS.get(bit, hex(bit)) for bit in single)

    def _ask(self, question: str, *arguments: Any) -> Any | None:
        """Return NVML's answer, or None where the GPU has none."""
        self.asked = question
        if (question, *arguments) in self._mute:
            return None
        try:
            return getattr(self._api, question)(self._handle, *arguments)
        except self._api.NVMLLibraryMismatchError:  # the driver is older than pynvml's form of the question
            self._mute.add((question, *arguments))
        except self._api.NVMLError as error:
            if error.value in self._never:
                self._mute.add((question, *arguments))
            elif error.value not in self._not_now:
                raise
        return None
