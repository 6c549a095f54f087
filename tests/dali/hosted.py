"""The GPU's stage under DALI's real executor, without a GPU: its operator on the CPU, its device in host memory."""

from __future__ import annotations

from typing import Any

import torch

from intune_gpu.core.buffers import BufferPool
from intune_gpu.dali import DALILoader, stages
from intune_gpu.dali.stages import DeviceStage
from intune_gpu.engine.program import Program
from tests.devices import HostDevice, HostMark

STREAM = 0xDA11


class CountingMark(HostMark):
    def wait(self) -> None:
        if not self.reached():
            self._device.waits += 1  # type: ignore[attr-defined]
        super().wait()


class OnStream(HostDevice):
    """A device whose transforms go on the stream that it is given, like `CudaDevice(where, stream)`.

    Attributes:
        stream: that it was opened for.
        waits: how often the host waited for what it had not done.
    """

    def __init__(self, where: torch.device, stream: int, **options: Any) -> None:
        super().__init__(**options)
        self.stream, self.waits = stream, 0

    def mark(self) -> HostMark:
        return CountingMark(self, self.given)


class HostedStage(DeviceStage):
    """See above; `devices` are those that were opened."""

    backend = "cpu"

    def __init__(self, program: Program, slots: int, **options: Any) -> None:
        self.devices: list[OnStream] = []

        def opened(where: torch.device, stream: int) -> OnStream:
            self.devices.append(OnStream(where, stream, **options))
            return self.devices[-1]

        super().__init__(program, 0, slots, opened)
        self.device_id = None
        self.memory = BufferPool()

    def clear(self) -> None:
        """DALI has waited for its stream: let the device be through as well."""
        for device in self.devices:
            device.work_until(device.given)
        super().clear()

    def stream(self) -> None:
        """The caller does at once what it is asked to."""
        return


class HostedLoader(DALILoader):
    """A `DALILoader` on such a stage.

    Args:
        seed: of the order in which the device works.
        options: as a `DALILoader` takes them.
    """

    def __init__(self, *arguments: Any, seed: int = 0, **options: Any) -> None:
        self._seed = seed
        super().__init__(*arguments, **options)

    @property
    def stage(self) -> HostedStage:
        assert isinstance(self._stage, HostedStage)
        return self._stage

    def _stage_of(self, program: Program) -> HostedStage:
        return HostedStage(program, self._slots, seed=self._seed)


def on_the_stream(monkeypatch: Any) -> None:
    """Let DALI's current stream have a number that no other has."""
    from intune_gpu.dali import device_node

    for module in (stages, device_node):
        monkeypatch.setattr(module, "current_stream", lambda: STREAM)
