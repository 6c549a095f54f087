"""KeyedJaggedTensors of the peers that have TorchRec beside them, and what stands in them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from bench.peers.serving import SPARSE

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_KEYS = list(SPARSE)


@cache
def ones(rows: int) -> torch.Tensor:
    """Return the lengths of a batch that has one id a row and feature; all batches share them."""
    return torch.ones(rows * len(SPARSE), dtype=torch.int32)


def jagged(ids: torch.Tensor, lengths: torch.Tensor) -> KeyedJaggedTensor:
    """Return ids (feature-major, flat) and lengths (26 * B,) as a KeyedJaggedTensor."""
    return KeyedJaggedTensor(keys=_KEYS, values=ids, lengths=lengths)


def arrays(batch: Any) -> Arrays:
    """Return the parts of a batch (dense, KeyedJaggedTensor, label)."""
    dense, sparse, label = batch
    return dense.numpy(), sparse.values().numpy(), sparse.lengths().numpy(), label.numpy()
