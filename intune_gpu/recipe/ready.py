"""Ready-made recipes; reached as `intune_gpu.recipes`."""

from __future__ import annotations

from intune_gpu.recipe.ops import Clip, FillMissing, HashBucket, Log1p
from intune_gpu.recipe.recipe import Recipe

CRITEO_DENSE = tuple(f"I{i}" for i in range(1, 14))
CRITEO_SPARSE = tuple(f"C{i}" for i in range(1, 27))
CRITEO_COLUMNS = ("label", *CRITEO_DENSE, *CRITEO_SPARSE)
"""The 40 fields of a Criteo display advertising log, in file order."""


def criteo(num_buckets: int = 100_000, seed: int = 0) -> Recipe:
    """Return the usual recipe for Criteo click logs.

    Dense: missing is 0, negative is 0, then log1p. Sparse: the hash of the 32-bit id.

    Args:
        num_buckets: rows of each of the 26 embedding tables.
        seed: seeds the hashes.
    """
    return Recipe(
        label="label",
        dense={name: [FillMissing(0.0), Clip(min=0.0), Log1p()] for name in CRITEO_DENSE},
        sparse={name: [HashBucket(num_buckets)] for name in CRITEO_SPARSE},
        types=dict.fromkeys(CRITEO_SPARSE, "hex32"),
        seed=seed,
    )
