"""NVIDIA drivers that are compiled for a test: they say what they are told to, and compute nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = """
int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}
int cuInit(unsigned flags) {{ return {init}; }}
int cuDeviceGetCount(int *count) {{ *count = {gpus}; return 0; }}
int cuGetErrorString(int code, const char **text) {{
    if (code == 999) return 1;
    *text = "system has unsupported display driver";
    return 0;
}}
"""


def make_driver(library: Path, version: int = 13000, init: int = 0, gpus: int = 1) -> str:
    """Compile a driver, and return where it is; skip the test where there is no compiler.

    Args:
        library: the file to make.
        version: as `cuDriverGetVersion` gives it: 1000 major + 10 minor.
        init: what `cuInit` returns.
        gpus: how many it shows.
    """
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler to make a driver with")
    source = library.with_suffix(".c")
    source.write_text(SOURCE.format(version=version, init=init, gpus=gpus))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)
