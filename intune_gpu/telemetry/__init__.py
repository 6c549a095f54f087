"""What is happening, in numbers: stage clocks, this machine, its GPUs. Nothing here decides anything."""

from intune_gpu.telemetry.sampler import Sampler, Telemetry
from intune_gpu.telemetry.totals import Totals

__all__ = ["Sampler", "Telemetry", "Totals"]
