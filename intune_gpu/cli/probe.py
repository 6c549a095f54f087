"""Questions that only importing answers, each in a process of its own: a package that crashes ends its question only.

`ask` is the parent's side. `python -m intune_gpu.cli.probe QUESTION` is the child's: it writes a JSON object a line.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.gpu import find_driver
from intune_gpu.core.packages import is_absent, need

TIMEOUT_S = 180.0
STACK = ("torch", "fbgemm_gpu", "torchrec")
"""What training needs, in the order in which it is imported."""


@dataclass(frozen=True)
class Answer:
    """What a child told.

    Attributes:
        told: all that it wrote.
        fault: why it did not get to its end; None where it did.
    """

    told: dict[str, Any]
    fault: str | None = None


def ask(questions: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, Answer]:
    """Put questions to a child each, all at once.

    Args:
        questions: of `QUESTIONS`.
        timeout_s: for all of them together.
    """
    deadline = time.monotonic() + timeout_s
    children = {
        question: subprocess.Popen(
            [sys.executable, "-m", "intune_gpu.cli.probe", question],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for question in questions
    }
    try:
        return {question: _answer(child, deadline) for question, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def _answer(child: subprocess.Popen[str], deadline: float) -> Answer:
    try:
        out, err = child.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
        return Answer(_told(out), "it does not come to an end")
    if child.returncode == 0:
        return Answer(_told(out))
    if child.returncode < 0:
        return Answer(_told(out), f"the process died of {signal.Signals(-child.returncode).name}")
    return Answer(_told(out), (err.strip().splitlines() or [f"exit code {child.returncode}"])[-1])


def _told(out: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for line in out.splitlines():
        told |= json.loads(line)
    return told


# ---- the child's side ------------------------------------------------------------------------------------------------

Tell = Callable[[dict[str, Any]], None]


def _stack(tell: Tell) -> None:
    """Import what training needs, and let torch look at the GPU."""
    for name in STACK:
        tell({"at": name})
        fault = _import_fault(name)
        tell({name: fault})
        if fault is not None:
            return
    from intune_gpu.train.device import look  # imports torch, which is there

    tell({"at": "the GPU"})
    report = look(find_driver(), compiles=False)
    tell({"built_for": report.torch_cuda, "has_gpu": report.has_gpu, "gpu": report.training_fault})


def _compiler(tell: Tell) -> None:
    """Let numba-cuda compile a kernel."""
    from intune_gpu.kernels import nvvm  # light; numba comes with the question

    try:
        need("numba_cuda", "preprocessing on a GPU")
    except MissingPackageError as error:
        cause = error.__cause__
        absent = isinstance(cause, Exception) and is_absent("numba_cuda", cause)
        tell({"compiler": str(cause), "absent": absent})
        return
    tell({"compiler": nvvm.fault(), "absent": False})


def _cache(tell: Tell) -> None:
    """Find the folder for compiled kernels."""
    from intune_gpu.kernels import generating  # imports numba

    folder = generating.folder()
    lasting = folder.name == f"kernels-{generating.kernel_digest()}"
    tell({"cache": str(folder), "lasting": lasting})


def _nvml(tell: Tell) -> None:
    """Let NVML tell of every GPU, and the driver of itself."""
    from intune_gpu.telemetry.nvml import Gpus

    tell({"driver": asdict(find_driver())})
    said: list[str] = []
    log = logging.getLogger("intune_gpu.telemetry.nvml")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.propagate = False
    gpus = Gpus()
    tell({"gpus": [asdict(told) for told in gpus.take()], "said": said})
    gpus.close()


def _dali(tell: Tell) -> None:
    """Import DALI."""
    tell({"dali": _import_fault("nvidia.dali")})


def _import_fault(name: str) -> str | None:
    """Return why a package cannot be imported, in a line; None where it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken package raises
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


QUESTIONS: dict[str, Callable[[Tell], None]] = {
    "stack": _stack,
    "compiler": _compiler,
    "cache": _cache,
    "nvml": _nvml,
    "dali": _dali,
}


def main(question: str) -> None:
    """Answer on stdout; what packages print goes to stderr."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    QUESTIONS[question](lambda told: print(json.dumps(told), file=own, flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
