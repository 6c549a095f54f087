"""The code of a CUDA kernel, with neither a GPU nor a driver: PTX, machine code, and what it takes.

`cuda.jit` does not run the PTX that `compile_ptx` shows: it hands NVVM's intermediate form to nvJitLink, which
optimises once more and generates the code, for the architecture with its own features (`sm_90a`). `running` goes that
way. It needs numba-cuda and nvJitLink; `ptxas`, `nvdisasm` are used where their wheels are.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: nothing is compiled for CUDA here", allow_module_level=True)

from cuda import pathfinder
from cuda.bindings import nvjitlink
from numba import types
from numba.core.typing import Signature
from numba.cuda import compiler, dispatcher
from numba.cuda.cudadrv import driver, nvvm

from intune_gpu.kernels import primitives_cuda

Capability = tuple[int, int]
CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0), (10, 0))
"""A100, H100 and H200, B200."""

assert primitives_cuda.fma is not None  # importing it registers the CUDA overloads of what rules call
_OPERATION = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)\s", re.MULTILINE)
_CLASSES = {"fma": "fma", "mad": "fma", "mul": "mul", "add": "add", "sub": "add", "div": "div"}
_SASS_CLASSES = {"FFMA": "fma", "FMUL": "mul", "FADD": "add", "FFMA32I": "fma", "FMUL32I": "mul", "FADD32I": "add"}


@dataclass(frozen=True)
class Resources:
    """What a kernel takes, as ptxas counts it.

    Attributes:
        registers: of a thread.
        spill_bytes: stored to local memory for want of registers, plus loaded from there, of a thread.
        stack_bytes: local memory of a thread.
        shared_bytes: shared memory of a thread block, without what a launch adds.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Code:
    """A compiled kernel; the machine code is made when it is first asked for.

    Attributes:
        ptx: what the machine code is made from.
        source: what nvJitLink takes, PTX or NVVM's intermediate form.
        flags: that it takes it with.
    """

    ptx: str
    source: bytes
    flags: tuple[str, ...]

    @cached_property
    def _linked(self) -> tuple[bytes, str]:
        return _link(self.source, [*self.flags, "-Xptxas=-v"])

    @property
    def cubin(self) -> bytes:
        """The machine code, an ELF file."""
        return self._linked[0]

    @property
    def resources(self) -> Resources:
        """What the kernel takes."""
        return resources(self._linked[1])


@contextmanager
def device_stand_in(capability: Capability) -> Iterator[None]:
    """Tell numba-cuda the capability of a device: it asks for one when a kernel calls other functions."""
    device = type("Device", (), {"compute_capability": capability})
    with patch.object(dispatcher, "get_current_device", lambda: device):
        yield


def arch(capability: Capability) -> str:
    """Return the architecture that numba-cuda compiles for: with features of its own from 9.0 on."""
    return "sm_" + "".join(map(str, _full(capability)))


def _full(capability: Capability) -> tuple[Any, ...]:
    return (*capability, "a") if capability >= (9, 0) else capability


def compiled_ptx(kernel: Any, signature: Signature, capability: Capability, contraction: bool = True) -> str:
    """Return the PTX that `cuda.compile_ptx` gives; with nvJitLink installed it is not what runs.

    Args:
        kernel: a Python function, or a `cuda.jit` dispatcher.
        signature: Numba's, void.
        capability: such as (9, 0).
        contraction: whether a product and a sum may become one fma where the kernel leaves it open.
    """
    return str(_library(kernel, signature, capability, contraction, lto=False).get_asm_str(cc=_full(capability)))


@cache
def running(kernel: Any, signature: Signature, capability: Capability, contraction: bool = True) -> Code:
    """Return the code that runs; arguments as `compiled_ptx`.

    A dispatcher's own options count: one made by `cuda.jit(f, lto=False)` goes through its plain PTX.
    """
    options = getattr(kernel, "targetoptions", {})
    lto = options.get("lto", True)
    library = _library(kernel, signature, capability, contraction, lto)
    flags = [f"-arch={arch(capability)}", f"-fma={int(contraction)}"]
    if options.get("max_registers"):
        flags.append(f"-maxrregcount={options['max_registers']}")
    if not lto:
        ptx = library.get_asm_str(cc=_full(capability))
        return Code(ptx, ptx.encode(), tuple(flags))
    ir = bytes(library.get_ltoir(cc=_full(capability)))
    flags.append("-lto")
    return Code(_link(ir, [*flags, "-ptx"])[0].decode().strip("\0 \n"), ir, tuple(flags))


def numbas_cubin(kernel: Any, signature: Signature, capability: Capability) -> bytes:
    """Return the machine code by numba-cuda's own linker: what `running` must agree with."""
    return bytes(_library(kernel, signature, capability, True, lto=True).get_cubin(cc=_full(capability)).code)


def assembled(ptx: str, capability: Capability) -> Resources:
    """Return what PTX takes, assembled by the `ptxas` of NVIDIA's wheel; skip the test where it is not installed."""
    assembler = tool("ptxas", package="nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [assembler, f"-arch={arch(capability)}", "-v", str(source), "-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unsupported .version" in done.stderr:
        pytest.skip(f"ptxas is older than NVVM and cannot read its PTX: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return resources(done.stderr)


def _library(kernel: Any, signature: Signature, capability: Capability, contraction: bool, lto: bool) -> Any:
    """Lower a kernel as `numba.cuda.dispatcher._Kernel` does, up to where that asks for a context."""
    if not driver._have_nvjitlink():
        pytest.skip("nvJitLink is not installed: code is not linked here")
    options = getattr(kernel, "targetoptions", {})
    nvvm_options = {"fastmath": options.get("fastmath", False), "opt": 3, **({} if contraction else {"fma": False})}
    with device_stand_in(capability):
        compiled = compiler.compile_cuda(
            getattr(kernel, "py_func", kernel),
            types.void,
            signature.args,
            fastmath=options.get("fastmath", False),
            nvvm_options=nvvm_options,
            cc=capability,
            max_registers=options.get("max_registers"),
            lto=lto,
        )
    library = compiled.library
    function = library.get_function(compiled.fndesc.llvm_func_name)
    library._entry_name = function.name
    compiler.kernel_fixup(function, False)
    nvvm.set_launch_bounds(function, options.get("launch_bounds"))
    return library


def _link(code: bytes, flags: Sequence[str]) -> tuple[bytes, str]:
    """Run nvJitLink over one input; return what it made, and its log."""
    kind = nvjitlink.InputType.LTOIR if "-lto" in flags else nvjitlink.InputType.PTX
    handle = nvjitlink.create(len(flags), list(flags))
    try:
        nvjitlink.add_data(handle, kind, code, len(code), "kernel")
        nvjitlink.complete(handle)
        log = _read(nvjitlink.get_info_log_size, nvjitlink.get_info_log, handle)
        if "-ptx" in flags:
            return _read(nvjitlink.get_linked_ptx_size, nvjitlink.get_linked_ptx, handle), log.decode()
        return _read(nvjitlink.get_linked_cubin_size, nvjitlink.get_linked_cubin, handle), log.decode()
    except nvjitlink.nvJitLinkError as error:
        log = _read(nvjitlink.get_error_log_size, nvjitlink.get_error_log, handle)
        raise AssertionError(f"nvJitLink {' '.join(flags)}: {log.decode()}") from error
    finally:
        nvjitlink.destroy(handle)


def _read(size: Callable[[int], int], get: Callable[[int, Any], None], handle: int) -> bytes:
    buffer = bytearray(size(handle))
    if buffer:
        get(handle, buffer)
    return bytes(buffer)


def resources(log: str) -> Resources:
    """Read what `ptxas -v` says: the largest of several functions, spills added up."""

    def every(pattern: str) -> list[int]:
        return [int(number) for number in re.findall(pattern, log)]

    registers = every(r"Used (\d+) registers")
    if not registers:
        raise AssertionError(f"ptxas: expected a line 'Used ... registers', found {log!r}; did its format change?")
    return Resources(
        max(registers),
        sum(every(r"(\d+) bytes spill (?:stores|loads)")),
        max(every(r"(\d+) bytes stack frame"), default=0),
        max(every(r"(\d+) bytes smem"), default=0),
    )


# ------------------------------------------------------------------------------------------------------------- counting


def operations(ptx: str) -> Counter[str]:
    """Count PTX instructions by name, such as `fma.rn.f32`."""
    return Counter(name for name in _OPERATION.findall(ptx))


def float_operations(ptx: str) -> Counter[str]:
    """Count float32 fma, mul, add (with sub) and div, whatever their rounding is written as."""
    counted: Counter[str] = Counter()
    for name, count in operations(ptx).items():
        first, *rest = name.split(".")
        if rest[-1:] == ["f32"] and first in _CLASSES:
            counted[_CLASSES[first]] += count
    return counted


def doubles(ptx: str) -> list[str]:
    """Return the instructions that touch float64."""
    return sorted(name for name in operations(ptx) if ".f64" in name)


def open_products(ptx: str) -> int:
    """Count products whose rounding is left open: the assembler may fuse them with a sum."""
    return sum(
        count for name, count in operations(ptx).items() if re.match(r"(mul|mad)(\.ftz)?(\.sat)?\.f(32|64)$", name)
    )


def instructions(cubin: bytes) -> list[bytes]:
    """Return the machine code of each function: the `.text` sections of an ELF file (64 bits, little-endian)."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    strings = sections[names][4]
    is_text = [cubin.startswith(b".text", strings + name) for name, *_ in sections]
    return [
        cubin[offset : offset + length] for (*_, offset, length), text in zip(sections, is_text, strict=True) if text
    ]


def machine_operations(cubin: bytes) -> Counter[str]:
    """Count the instructions of machine code by name, such as `FFMA`; skip the test without `nvdisasm`."""
    disassembler = tool("nvdisasm", package="nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([disassembler, "-c", file.name], capture_output=True, text=True, check=True)
    return Counter(
        re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", done.stdout, re.MULTILINE)
    )


def machine_float_operations(cubin: bytes) -> Counter[str]:
    """Count float32 fma, mul and add of machine code. A division is many of each."""
    counted: Counter[str] = Counter()
    for name, count in machine_operations(cubin).items():
        if name in _SASS_CLASSES:
            counted[_SASS_CLASSES[name]] += count
    return counted


@cache
def tool(name: str, package: str) -> str:
    """Return the path of a tool out of NVIDIA's wheels, conda or CUDA_PATH; skip the test where there is none."""
    found = pathfinder.find_nvidia_binary_utility(name)
    if found is None:
        pytest.skip(f"{name} is not installed (package {package})")
    return str(found)
