"""What to compute: ops, recipes, their checks, and how they are saved."""

from intune_gpu.recipe.ops import (
    Bucketize,
    Clip,
    Column,
    Cross,
    FillMissing,
    FirstK,
    HashBucket,
    Log1p,
    MissingFlag,
    Modulo,
    Scale,
)
from intune_gpu.recipe.recipe import Recipe

__all__ = [
    "Bucketize",
    "Clip",
    "Column",
    "Cross",
    "FillMissing",
    "FirstK",
    "HashBucket",
    "Log1p",
    "MissingFlag",
    "Modulo",
    "Recipe",
    "Scale",
]
