"""The measuring side: one engine's process, told what to do by lines of JSON, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bench.machine import ROOT
from bench.peers import processes
from bench.peers.table import Engine
from bench.worker import environment

START_S, ANSWER_S, STOP_S = 180.0, 240.0, 20.0
_POLL_S = 0.2
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class EngineError(Exception):
    """An engine died, hung, or said that it cannot."""


class Child:
    """An engine's process; use it as a context manager.

    Args:
        engine: which.
        python: its interpreter.
        cores: on which it and all that it starts may run.
        folder: for its standard error.

    Attributes:
        pid: of the process.
        started_at: `time.monotonic()` when it was started.
        versions: of what it runs with.
    """

    def __init__(self, engine: Engine, python: Path, cores: list[int], folder: Path) -> None:
        self.engine, self._cores = engine, cores
        self._log = folder / f"{engine.key}-{len(cores)}-{time.monotonic_ns()}.log"
        command = [str(python), *engine.command]
        at = next((i for i, part in enumerate(command) if part.startswith("bench.") or part.endswith(".py")), 0) + 1
        command.insert(at, json.dumps({"cores": cores}))
        self.started_at = time.monotonic()
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**environment(len(cores)), **_QUIET, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,  # Ctrl-C is ours to handle, and its session tells who belongs to it
            )
        self.pid = self._process.pid
        self._pending, self._broken, self._stopping = b"", False, False
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(gently=kind is None)

    def wait_until_ready(self, timeout_s: float = START_S) -> None:
        """Wait until everything is imported.

        Raises:
            EngineError: it was not.
        """
        self.versions = self._answer(timeout_s)["versions"]

    def ask(self, command: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Give a command and return the answer.

        Raises:
            EngineError: it died, gave none in time, or answered with an error.
        """
        self.tell(command)
        return self.hear(timeout_s)

    def tell(self, command: dict[str, Any]) -> None:
        """Give a command, and let `hear` wait for the answer."""
        assert self._process.stdin is not None
        if self.engine.halted:
            processes.send(self.pid, signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed("was gone before it could be asked") from None

    def hear(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            EngineError: it died, gave none in time, or answered with an error.
        """
        found = self._answer(timeout_s)
        if self.engine.halted and not self._stopping:
            processes.send(self.pid, signal.SIGSTOP)
        if "error" in found:
            raise EngineError(f"{self.engine.name}: {found['error']}")
        return found

    def answered(self) -> bool:
        """Return whether an answer waits, or none will come any more."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0]) or self._process.poll() is not None

    def close(self, gently: bool = True) -> None:
        """End the process and all that it started. May be called more than once."""
        process = self._process
        if gently and not self._broken and process.poll() is None:
            with contextlib.suppress(EngineError, subprocess.TimeoutExpired):
                self._stopping = True
                self.ask({"do": "stop"}, STOP_S)
                process.wait(STOP_S)
        processes.kill(process.pid)  # its session may have outlived it
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([pipe], [], [], _POLL_S)
            if ready:
                part = os.read(pipe, 1 << 16)
                if not part:
                    raise self._failed("died")
                self._pending += part
            elif self._process.poll() is not None:
                raise self._failed("died")  # a child of its own may still hold the pipe
            elif time.monotonic() > deadline:
                raise self._failed(f"gave no answer in {timeout_s:.0f} s")
        line, _, self._pending = self._pending.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _failed(self, how: str) -> EngineError:
        self._broken = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL_S)  # the pipe ends before the process does
        status = self._process.poll()
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return EngineError(f"{self.engine.name}: {how}{'' if status is None else f' with status {status}'}: {last}")


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):  # what was written last never arrived
            pipe.close()
