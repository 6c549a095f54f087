"""What engines and cases are called, where more than one file has to know."""

from __future__ import annotations

OURS = "intune_gpu"
SMALL, LARGE = "batches of 1,024", "batches of 65,536"
FIRST_SIGHT = "intune_gpu, first sight"
POLARS = "Polars"
PYARROW = "pyarrow"
COPY = "copy bound"
CUPY, TORCH, COMPILED = "CuPy", "torch", "torch.compile"
DEVICE_COPY = "device copy"
HOST_LAUNCH, HOST_RUN, HOST_SUBMIT = "launches alone", "GpuProgram.run", "GpuProgram.run, submit"
BEST_STATIC, RANDOM_CHANGES, SHARE = "best static plan", "random changes of the plan", "of the best static plan"
DALI, NATIVE, NODE = "DALIRecIterator", "Loader", "fn.transform"
CHECKPOINTS, EMPTY = "DALIRecIterator, checkpoints", "empty pipeline"
BY_DALI, RESIDENT = "intune_gpu by DALI", "resident batches"
BATCH_SIZES = "small batches beside large ones"


def ids(column: str, output: str) -> str:
    """Name a case's id types."""
    return f"{column} ids → {output}"


def batches(size: int) -> str:
    """Name a case's batch size."""
    return f"batches of {size:,}"


def threads(count: int) -> str:
    """Name a number of threads."""
    return f"{count} thread{'s' * (count > 1)}"
