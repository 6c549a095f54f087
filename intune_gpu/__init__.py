"""Feed recommendation models: one feature recipe, the same bytes on CPU and GPU, read, shuffled and resumed exactly.

Importing this package loads none of its heavy parts; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intune_gpu.core.cursor import Cursor as Cursor
    from intune_gpu.core.errors import BadRowError as BadRowError
    from intune_gpu.core.errors import BudgetError as BudgetError
    from intune_gpu.core.errors import DataError as DataError
    from intune_gpu.core.errors import DeviceError as DeviceError
    from intune_gpu.core.errors import IntuneError as IntuneError
    from intune_gpu.core.errors import MissingPackageError as MissingPackageError
    from intune_gpu.core.errors import RecipeError as RecipeError
    from intune_gpu.core.errors import ResumeError as ResumeError
    from intune_gpu.core.errors import StageError as StageError
    from intune_gpu.core.errors import TooManyBadRowsError as TooManyBadRowsError
    from intune_gpu.core.placement import Placement as Placement
    from intune_gpu.core.plan import Plan as Plan
    from intune_gpu.engine.batch import Batch as Batch
    from intune_gpu.engine.transform import transform as transform
    from intune_gpu.loader import Loader as Loader
    from intune_gpu.recipe import Bucketize as Bucketize
    from intune_gpu.recipe import Clip as Clip
    from intune_gpu.recipe import Column as Column
    from intune_gpu.recipe import Cross as Cross
    from intune_gpu.recipe import FillMissing as FillMissing
    from intune_gpu.recipe import FirstK as FirstK
    from intune_gpu.recipe import HashBucket as HashBucket
    from intune_gpu.recipe import Log1p as Log1p
    from intune_gpu.recipe import MissingFlag as MissingFlag
    from intune_gpu.recipe import Modulo as Modulo
    from intune_gpu.recipe import Recipe as Recipe
    from intune_gpu.recipe import Scale as Scale
    from intune_gpu.recipe import ready as recipes

__version__ = "0.1.0"

_HOME = {
    "BadRowError": "core.errors",
    "Batch": "engine.batch",
    "Bucketize": "recipe",
    "BudgetError": "core.errors",
    "Clip": "recipe",
    "Column": "recipe",
    "Cross": "recipe",
    "Cursor": "core.cursor",
    "DataError": "core.errors",
    "DeviceError": "core.errors",
    "FillMissing": "recipe",
    "FirstK": "recipe",
    "HashBucket": "recipe",
    "IntuneError": "core.errors",
    "Loader": "loader",
    "Log1p": "recipe",
    "MissingFlag": "recipe",
    "MissingPackageError": "core.errors",
    "Modulo": "recipe",
    "Placement": "core.placement",
    "Plan": "core.plan",
    "Recipe": "recipe",
    "RecipeError": "core.errors",
    "ResumeError": "core.errors",
    "Scale": "recipe",
    "StageError": "core.errors",
    "TooManyBadRowsError": "core.errors",
    "transform": "engine.transform",
}

__all__ = [*_HOME, "recipes"]


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("intune_gpu.recipe.ready")
    if name not in _HOME:
        raise AttributeError(f"module 'intune_gpu' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"intune_gpu.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        from intune_gpu.core.packages import EXTRAS, missing

        if error.name not in EXTRAS:
            raise
        raise missing(error.name, f"intune_gpu.{name}", error) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
