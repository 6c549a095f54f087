"""A PTX interpreter: runs a kernel's PTX over many threads at once, bit for bit, with no GPU.

Every register is a NumPy array of one value a thread. Threads that branch apart are run group by group, those that are
furthest back first, so loops whose length depends on data work. What floats do is in `rounding`, what each instruction
does in `ptx_ops`; memory is checked for bounds and alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.cuda.ptx_memory import Banks, Memory, window_of
from tests.cuda.ptx_operands import BOOL, Action, reader
from tests.cuda.ptx_ops import action
from tests.cuda.ptx_text import Jump, Program, PtxError, Register, parse

WAVE = 1 << 14
"""Threads that are run together: their registers stay in the second cache level."""
_GONE = np.iinfo(np.int32).max
_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Kernel:
    """A program whose instructions are ready to run.

    Attributes:
        program: as it was read.
        actions: of each block.
    """

    program: Program
    actions: tuple[tuple[Action, ...], ...]


def kernel(ptx: str, entry: str | None = None) -> Kernel:
    """Read an entry of a PTX module, and refuse what cannot be run; arguments as `ptx_text.parse`."""
    program = parse(ptx, entry)
    actions = tuple(tuple(action(i, program.widths) for i in block.instructions) for block in program.blocks)
    return Kernel(program, actions)


class Wave:
    """Some thread blocks of a launch: the frame that actions read and write.

    Attributes:
        rows: threads that run now; None: all.
    """

    def __init__(self, launch: _Launch, first: int, blocks: int) -> None:
        self._launch = launch
        threads = launch.threads
        lanes = np.arange(blocks * threads)
        self.count = len(lanes)
        self.rows: np.ndarray | None = None
        self._banks = {"shared": (lanes // threads).astype(np.uint32), "local": lanes.astype(np.uint32)}
        self._spaces = {
            "global": launch.memory,
            "shared": Banks(blocks, launch.sizes["shared"], "shared"),
            "local": Banks(len(lanes), launch.sizes["local"], "local"),
        }
        self._registers = _special(launch, first + lanes // threads, lanes % threads)
        self._local: dict[str, Any] = {}
        self._written: set[str] = set()

    # ------------------------------------------------------------------------------------------- what actions call

    def read(self, name: str) -> Any:
        """Return a register of the threads that run now: unsigned integers, or bool."""
        if name in self._local:
            return self._local[name]
        if name not in self._registers:
            raise PtxError(f"register {name}: read before anything was written to it")
        values = self._registers[name]
        if self.rows is not None and values.ndim:
            values = values[self.rows]
        self._local[name] = values
        return values

    def write(self, name: str, values: Any) -> None:
        """Set a register of the threads that run now."""
        self._local[name] = values
        self._written.add(name)

    def address_of(self, name: str) -> int:
        """Return where a variable lies within its space."""
        return self._launch.addresses[name]

    def window(self, space: str) -> int:
        """Return what a generic address is more than one of this space."""
        where = self._spaces["global" if space in ("const", "param") else space]
        return 0 if isinstance(where, Memory) else where.window

    def locate(self, space: str, addresses: Any, size: int, what: str) -> tuple[Memory | Banks, Any]:
        """Check addresses; return the memory that they are in, and where in it."""
        if space == "generic":
            space = window_of(addresses)
            addresses = addresses - np.uint64(self.window(space))
        if space in ("global", "const"):
            return self._launch.memory, self._launch.memory.offsets(addresses, size, what)
        if space == "param":
            return self._launch.parameters, self._launch.parameters.offsets(addresses, size, what)
        where = self._spaces[space]
        assert isinstance(where, Banks)
        banks = self._banks[space] if self.rows is None else self._banks[space][self.rows]
        return where, where.offsets(addresses, size, what, banks)

    # ------------------------------------------------------------------------------------------------------ running

    def run(self, kernel: Kernel) -> None:
        """Run until every thread has left the kernel."""
        at = np.zeros(self.count, np.int32)  # block that each thread is before
        waiting = np.zeros(self.count, bool)
        with np.errstate(all="ignore"):
            for _ in range(self._launch.steps):
                block = int(np.min(at, where=~waiting, initial=_GONE))
                if block == _GONE and not self._release(at, waiting):
                    return
                if block != _GONE:
                    self._step(kernel, block, at, waiting)
        raise PtxError(f"PTX: expected an end within {self._launch.steps} blocks of instructions, found none; a loop?")

    def _release(self, at: np.ndarray, waiting: np.ndarray) -> bool:
        """Let threads go on behind a barrier at which all are that have not left."""
        places = np.unique(at[waiting])
        if len(places) > 1:
            raise PtxError(f"PTX barrier: expected all threads at one, found them at {len(places)}")
        waiting[:] = False
        return len(places) == 1

    def _step(self, kernel: Kernel, block: int, at: np.ndarray, waiting: np.ndarray) -> None:
        here = (at == block) & ~waiting
        self.rows = None if here.all() else np.flatnonzero(here)
        for run in kernel.actions[block]:
            run(self)
        jump = kernel.program.blocks[block].jump or Jump(block + 1)
        ahead = np.int32(_GONE if jump.target < 0 else jump.target)
        goes: Any = np.int32(ahead)
        if jump.predicate is not None:
            taken = reader(Register(jump.predicate), BOOL)(self) != jump.negated
            goes = np.where(taken, ahead, np.int32(block + 1))
        at[here] = goes
        waiting[here] = jump.barrier
        self._commit()

    def _commit(self) -> None:
        for name in self._written:
            values = self._local[name]
            if self.rows is not None:
                before = self._registers.get(name, values.dtype.type(0))
                full = np.empty(self.count, values.dtype)
                full[:] = before
                full[self.rows] = values
                values = full
            self._registers[name] = values
        self._local.clear()
        self._written.clear()


@dataclass(frozen=True)
class _Launch:
    """What all waves of a launch share.

    Attributes:
        memory: global memory.
        parameters: the parameter space.
        addresses: variable or parameter → where it lies within its space.
        sizes: bytes of the shared memory of a thread block, and of the local one of a thread.
        grid: thread blocks along each axis.
        block: threads along each axis.
        steps: blocks of instructions that a wave may run.
    """

    memory: Memory
    parameters: Banks
    addresses: dict[str, int]
    sizes: dict[str, int]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    steps: int

    @property
    def threads(self) -> int:
        return int(np.prod(self.block))


def launch(
    kernel: Kernel,
    memory: Memory,
    arguments: Sequence[Any],
    grid: tuple[int, ...],
    block: tuple[int, ...],
    dynamic_shared_bytes: int = 0,
    steps: int = 1_000_000,
) -> None:
    """Run a kernel over a grid.

    Args:
        kernel: from `kernel`.
        memory: global memory, which it changes.
        arguments: one number a parameter (`Memory.argument` gives those of an array); floats as NumPy scalars.
        grid: thread blocks along x, y, z.
        block: threads along x, y, z.
        dynamic_shared_bytes: for `extern` shared arrays.
        steps: blocks of instructions that a wave of threads may run, so that an endless loop is an error.

    Raises:
        PtxError: a fault, or PTX that cannot be run.
    """
    padded = [(*size, 1, 1)[:3] for size in (grid, block)]
    parameters = _parameters(kernel.program, arguments)
    addresses, sizes = _lay_out(kernel.program, memory, dynamic_shared_bytes)
    shared = _Launch(memory, parameters, addresses, sizes, padded[0], padded[1], steps)  # type: ignore[arg-type]
    total = int(np.prod(padded[0]))
    together = max(1, WAVE // shared.threads)
    for first in range(0, total, together):
        Wave(shared, first, min(together, total - first)).run(kernel)


def _parameters(program: Program, arguments: Sequence[Any]) -> Banks:
    if len(arguments) != len(program.parameters):
        raise PtxError(f"{program.name}: expected {len(program.parameters)} arguments, found {len(arguments)}")
    size = max((offset + length for offset, length in program.parameters.values()), default=0)
    bank = Banks(1, size, "param")
    for (offset, length), value in zip(program.parameters.values(), arguments, strict=True):
        is_number = isinstance(value, int)
        raw = (int(value) % 2 ** (8 * length)).to_bytes(length, "little") if is_number else np.asarray(value).tobytes()
        if len(raw) != length:
            raise PtxError(f"{program.name}: expected an argument of {length} bytes, found {len(raw)} ({value!r})")
        bank.fill(offset, raw)
    return bank


def _lay_out(program: Program, memory: Memory, dynamic: int) -> tuple[dict[str, int], dict[str, int]]:
    """Give every variable an address, and say how large shared and local memory are."""
    addresses = {name: offset for name, (offset, _) in program.parameters.items()}
    sizes = {"shared": 0, "local": 0}
    for variable in sorted(program.variables.values(), key=lambda v: not v.data):  # arrays of open length come last
        if variable.space in sizes:
            start = -(-sizes[variable.space] // variable.align) * variable.align
            addresses[variable.name] = start
            sizes[variable.space] = start + (len(variable.data) or dynamic)
        else:
            addresses[variable.name] = memory.put(np.frombuffer(variable.data, np.uint8))
    return addresses, sizes


def _special(launch: _Launch, blocks: np.ndarray, threads: np.ndarray) -> dict[str, Any]:
    """Return the special registers of threads."""
    registers: dict[str, Any] = {"%laneid": (threads % 32).astype(np.uint32)}
    for axis, name in enumerate(_AXES):
        before_block = int(np.prod(launch.block[:axis]))
        before_grid = int(np.prod(launch.grid[:axis]))
        registers[f"%tid.{name}"] = (threads // before_block % launch.block[axis]).astype(np.uint32)
        registers[f"%ctaid.{name}"] = (blocks // before_grid % launch.grid[axis]).astype(np.uint32)
        registers[f"%ntid.{name}"] = np.uint32(launch.block[axis])
        registers[f"%nctaid.{name}"] = np.uint32(launch.grid[axis])
    return registers
