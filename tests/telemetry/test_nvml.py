"""GPUs that tell all, some of it, or nothing any more."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from intune_gpu.core.signals import GpuSignals
from intune_gpu.telemetry.nvml import PCIE_EVERY_S, REASONS, Gpus
from tests.telemetry.fake_nvml import FakeGpu, FakeNvml, answers, healthy, make_library

TOLD = GpuSignals(
    index=0,
    sm_pct=93.0,
    memory_bus_pct=41.0,
    memory_used_bytes=300,
    memory_free_bytes=700,
    memory_process_bytes=250,
    pcie_rx_bytes_per_s=7e6,
    pcie_tx_bytes_per_s=3e4,
    power_watts=412.5,
    throttle_reasons=("power_cap", "software_thermal"),
)
QUESTIONS = {
    "nvmlDeviceGetUtilizationRates": {"sm_pct", "memory_bus_pct"},
    "nvmlDeviceGetMemoryInfo": {"memory_used_bytes", "memory_free_bytes"},
    "nvmlDeviceGetPowerUsage": {"power_watts"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle_reasons"},
    "nvmlDeviceGetComputeRunningProcesses": {"memory_process_bytes"},
    "rx": {"pcie_rx_bytes_per_s"},
    "tx": {"pcie_tx_bytes_per_s"},
}


def absent(signals: GpuSignals) -> set[str]:
    return {f.name for f in fields(signals) if getattr(signals, f.name) is None}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_gpu_that_tells_all(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeNvml(healthy(0))
    gpus = Gpus(api=api, environment={})
    assert gpus.take() == (TOLD,)
    gpus.close()
    gpus.close()
    assert (api.open, gpus.take(), warnings_in(caplog)) == (0, (), [])


def test_every_field_has_its_question() -> None:
    assert set().union(*QUESTIONS.values()) == {f.name for f in fields(GpuSignals)} - {"index"}


# --- what a GPU cannot tell is absent --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_not_supported_is_absent_and_not_asked_again(
    question: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = healthy(0)
    gpu.answers[question] = pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{error}"))
    now = [0.0]
    api = FakeNvml(gpu)
    gpus = Gpus(api=api, environment={}, clock=lambda: now[0])
    for _ in range(3):
        (told,) = gpus.take()
        assert absent(told) == QUESTIONS[question]
        now[0] += PCIE_EVERY_S
    assert (api.calls.count(question), warnings_in(caplog)) == (1, [])


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_driver_older_than_pynvml_is_no_fault(question: str, caplog: pytest.LogCaptureFixture) -> None:
    gpu = healthy(0)
    gpu.answers[question] = pynvml.NVMLLibraryMismatchError("other version")
    (told,) = Gpus(api=FakeNvml(gpu), environment={}).take()
    assert (absent(told), warnings_in(caplog)) == (QUESTIONS[question], [])


def test_a_gpu_that_supports_nothing_is_still_there(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(api=FakeNvml(FakeGpu("GPU-a")), environment={})
    assert (gpus.take(), warnings_in(caplog)) == ((GpuSignals(0),), [])


def test_what_is_not_ready_is_asked_again() -> None:
    gpu, api = healthy(0), FakeNvml()
    api.gpus.append(gpu)
    gpus = Gpus(api=api, environment={})
    gpu.answers["nvmlDeviceGetPowerUsage"] = pynvml.NVMLError(pynvml.NVML_ERROR_NO_DATA)
    assert absent(gpus.take()[0]) == {"power_watts"}
    gpu.answers["nvmlDeviceGetPowerUsage"] = 1_000
    assert gpus.take()[0].power_watts == 1.0


def test_older_drivers_name_the_reasons_otherwise() -> None:
    gpu = healthy(0)
    gpu.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x8
    del gpu.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    assert Gpus(api=FakeNvml(gpu), environment={}).take()[0].throttle_reasons == ("hardware_slowdown",)


def test_reasons_are_named_and_unknown_ones_kept() -> None:
    gpu = healthy(0)
    for bits, names in ((0, ()), (0x1, ("idle",)), (1 << 40 | 0x80, ("hardware_power_brake", "0x10000000000"))):
        gpu.answers["nvmlDeviceGetCurrentClocksEventReasons"] = bits
        assert Gpus(api=FakeNvml(gpu), environment={}).take()[0].throttle_reasons == names
    of_nvml = pynvml.nvmlClocksEventReasonAll | pynvml.nvmlClocksThrottleReasonAll
    assert set(REASONS) == {1 << place for place in range(of_nvml.bit_length()) if of_nvml >> place & 1}


OTHERS = SimpleNamespace(pid=1, usedGpuMemory=100)
UNTOLD = SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)


@pytest.mark.parametrize("processes", [[], [OTHERS], [OTHERS, UNTOLD]])
def test_memory_of_a_process_that_nvml_does_not_know_is_absent(processes: list[SimpleNamespace]) -> None:
    gpu = healthy(0)
    gpu.answers["nvmlDeviceGetComputeRunningProcesses"] = processes
    assert absent(Gpus(api=FakeNvml(gpu), environment={}).take()[0]) == {"memory_process_bytes"}


def test_slow_questions_have_their_own_pace() -> None:
    now = [100.0]
    gpu = healthy(0)
    api = FakeNvml(gpu)
    gpus = Gpus(api=api, environment={}, clock=lambda: now[0])
    for turn in range(9):
        now[0] = 100.0 + turn * PCIE_EVERY_S / 4
        gpu.answers["rx"] = 1_000 * turn
        told = gpus.take()[0]
        assert told.pcie_rx_bytes_per_s == 1e6 * (turn - turn % 4)
    assert (api.calls.count("rx"), api.calls.count("nvmlDeviceGetPowerUsage")) == (3, 9)


# --- which GPUs ------------------------------------------------------------------------------------------------------

MIG = FakeGpu("MIG-1", 0, answers() | {"nvmlDeviceGetPowerUsage": None, "rx": None, "tx": None}, whole=healthy(2))


@pytest.mark.parametrize(
    ("listed", "wanted", "indices"),
    [
        (None, None, [0, 1, 2]),
        ("", None, []),
        ("2,0", None, [2, 0]),
        (" 2 , 0 ", [1], [0]),
        (None, [2, 0], [2, 0]),
        (None, [], []),
        ("GPU-00000001", None, [1]),
        ("GPU-00000002-0000,0", None, [2, 0]),
        ("GPU-0000000", None, []),  # of three GPUs
        ("1,-1,0", None, [1]),
        ("1,7,0", None, [1]),
        ("nonsense", None, []),
        ("MIG-1", None, [2]),
        ("MIG-nothing", None, []),
    ],
)
def test_the_gpus_are_those_that_cuda_shows(listed: str | None, wanted: list[int] | None, indices: list[int]) -> None:
    environment = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    gpus = Gpus(wanted, FakeNvml(healthy(0), healthy(1), healthy(2), instances=(MIG,)), environment)
    assert [told.index for told in gpus.take()] == indices


def test_an_instance_tells_what_it_can() -> None:
    gpus = Gpus(api=FakeNvml(instances=(MIG,)), environment={"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert absent(gpus.take()[0]) == {"power_watts", "pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s"}


def test_a_gpu_that_is_not_shown_is_named(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus([0, 3], FakeNvml(healthy(0)), {"CUDA_VISIBLE_DEVICES": "0"})
    assert gpus.take() == (TOLD,)
    (line,) = warnings_in(caplog)
    assert "CUDA_VISIBLE_DEVICES='0' shows 1 GPUs, and none of number 3" in line


def test_who_wants_no_gpu_leaves_nvml_alone(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeNvml(healthy(0))
    gpus = Gpus((), api, {})
    assert (gpus.take(), api.open, warnings_in(caplog)) == ((), 0, [])
    gpus.close()


# --- NVML fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "UNKNOWN"])
def test_without_a_driver_one_line_says_so(code: str, caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(api=FakeNvml(healthy(0), init=getattr(pynvml, f"NVML_ERROR_{code}")), environment={})
    assert [gpus.take() for _ in range(3)] == [(), (), ()]
    gpus.close()
    (line,) = warnings_in(caplog)
    assert line.startswith("telemetry: NVML does not start (")
    assert "the run goes on" in line


@pytest.mark.parametrize("error", ["GPU_IS_LOST", "RESET_REQUIRED", "UNINITIALIZED", "DRIVER_NOT_LOADED", "UNKNOWN"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_gpu_that_is_lost_at_any_question(question: str, error: str, caplog: pytest.LogCaptureFixture) -> None:
    lost = healthy(0)
    now = [0.0]
    api = FakeNvml(lost, healthy(1))
    gpus = Gpus(api=api, environment={}, clock=lambda: now[0])
    assert gpus.take()[0] == TOLD
    lost.answers[question] = pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{error}"))
    api.calls.clear()
    for _ in range(3):
        now[0] += PCIE_EVERY_S
        first, second = gpus.take()
        assert first == GpuSignals(0)
        assert absent(second) == set()
    assert api.calls.count(question) == 1 + 3  # the lost one is left in peace
    gpus.close()
    (line,) = warnings_in(caplog)
    assert "GPU 0 stopped answering (nvmlDevice" in line
    assert "nvidia-smi tells more" in line


def test_all_gpus_lost_at_once_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    machine = [healthy(index) for index in range(3)]
    gpus = Gpus(api=FakeNvml(*machine), environment={})
    gpus.take()
    for gpu in machine:
        gpu.answers = dict.fromkeys(gpu.answers, pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
    assert gpus.take() == tuple(GpuSignals(index) for index in range(3))
    assert len(warnings_in(caplog)) == 1


def test_an_index_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="gpu_index: expected 0 or more"):
        Gpus([-1], FakeNvml(healthy(0)), {})


# --- the real pynvml -------------------------------------------------------------------------------------------------

ASK = """
import json, sys
from dataclasses import asdict
from intune_gpu.telemetry.nvml import Gpus
gpus = Gpus(clock=iter(range(0, 100, 10)).__next__)
print(json.dumps([[asdict(gpu) for gpu in gpus.take()] for _ in range(3)]))
gpus.close()
"""


def asked(env: dict[str, str]) -> tuple[list[Any], str]:
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def as_json(signals: GpuSignals) -> Any:
    return json.loads(json.dumps(asdict(signals)))


def test_pynvml_itself_is_asked_rightly(tmp_path: Path) -> None:
    env = make_library(tmp_path) | {"CUDA_VISIBLE_DEVICES": "GPU-b,0"}
    turns, said = asked(env)
    assert turns == [[as_json(TOLD) | {"index": 1}, as_json(TOLD)]] * 3
    assert said == ""


def test_pynvml_itself_fails_halfway(tmp_path: Path) -> None:
    turns, said = asked(make_library(tmp_path, last=20) | {"CUDA_VISIBLE_DEVICES": "0"})
    assert turns[0] == turns[1] == [as_json(TOLD)]
    assert turns[2] == [as_json(GpuSignals(0))]
    assert said.count("\n") == 1
    assert "GPU 0 stopped answering" in said


def test_no_driver_at_all(tmp_path: Path) -> None:
    code = "import ctypes\ntry:\n ctypes.CDLL('libnvidia-ml.so.1')\nexcept OSError:\n print('none')"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout != b"none\n":
        pytest.skip("there is an NVIDIA driver")
    turns, said = asked({"PATH": ""})
    assert turns == [[], [], []]
    assert said.count("\n") == 1
    assert "NVML does not start (NVML Shared Library Not Found)" in said
