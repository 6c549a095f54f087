"""Batch: what a trainer gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import MissingPackageError

try:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    from torchrec.streamable import Pipelineable
except ModuleNotFoundError:
    raise  # `intune_gpu` says which package to install
except (ImportError, OSError) as error:  # OSError: fbgemm's library for another torch, or for CUDA where there is none
    raise MissingPackageError(
        f"intune_gpu: batches need TorchRec and fbgemm that fit torch {torch.__version__}, and importing TorchRec "
        f'failed ({error}); install the pair with pip install "intune_gpu[train]", or run make train'
    ) from error


@dataclass(eq=False, slots=True, repr=False)
class Batch(Pipelineable):  # type: ignore[misc]  # TorchRec is untyped for mypy
    """One batch of B rows with D dense and F sparse features.

    Attributes:
        dense: (B, D) float32, contiguous.
        sparse: F keys; `lengths()` (F * B,) int32, `values()` int64 or int32, feature by feature. Where no feature is a
            list, lengths are all 1 and one tensor is shared by the batches of a size: copy it before writing into it.
        label: (B,) float32.
        cursor: the place behind this batch, for `Loader.state_dict`; None for a one-shot transform.
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    label: torch.Tensor
    cursor: Cursor | None = None

    def __repr__(self) -> str:
        rows, dense, keys = len(self), self.dense.shape[1], self.sparse.keys()
        return f"Batch({rows} rows, {dense} dense features, {len(keys)} sparse features, cursor={self.cursor})"

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Return the batch on `device`."""
        return Batch(
            self.dense.to(device=device, non_blocking=non_blocking),
            self.sparse.to(device=device, non_blocking=non_blocking),
            self.label.to(device=device, non_blocking=non_blocking),
            self.cursor,
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell torch's allocator that `stream` uses this memory."""
        self.dense.record_stream(stream)
        self.sparse.record_stream(stream)
        self.label.record_stream(stream)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked host memory."""
        return Batch(self.dense.pin_memory(), self.sparse.pin_memory(), self.label.pin_memory(), self.cursor)
