"""Which groups can be made on a GPU: those whose ops all have a CUDA form, by their types and not by trial."""

from __future__ import annotations

from collections.abc import Iterable

from intune_gpu.engine.program import Program
from intune_gpu.recipe import (
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
from intune_gpu.recipe.features import SparseFeature

CUDA_OPS: tuple[type, ...] = (
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


def group_names(program: Program) -> tuple[str, ...]:
    """Return the names of a program's groups: the label's, then dense ones, ids, lists, crosses, bins."""
    groups, recipe = program.groups, program.recipe
    names = ["label"]
    names += [f"dense {g.like.dtype.name} {'+'.join(g.rules) or 'convert'}" for g in groups.dense]
    names += [f"{'modulo' if g.parameters.ndim == 1 else 'hash'} {g.physical}" for g in groups.singles]
    names += [f"list {recipe.sparse_names[int(g.features[0])]}" for g in groups.lists]
    names += ["crosses"] * bool(groups.crosses)
    return tuple(names + [f"bins {recipe.sparse_names[i]}" for i, _ in groups.bucketized])


def without_cuda(program: Program, cuda_ops: tuple[type, ...] = CUDA_OPS) -> frozenset[str]:
    """Return the names of the groups that can only be made on the CPU.

    Args:
        program: whose groups.
        cuda_ops: types of the ops that have a CUDA form.
    """
    groups, recipe = program.groups, program.recipe
    dense = {i for i, f in enumerate(recipe.dense_features) if _lacks(f.ops, cuda_ops)}
    sparse = {i for i, f in enumerate(recipe.sparse_features) if _lacks(_ops(f), cuda_ops)}
    members: list[tuple[Iterable[int], set[int]]] = [((), dense)]
    members += [(group.positions, dense) for group in groups.dense]
    members += [(group.features.tolist(), sparse) for group in (*groups.singles, *groups.lists)]
    members += [([i for i, _, _ in groups.crosses], sparse)] * bool(groups.crosses)
    members += [([i], sparse) for i, _ in groups.bucketized]
    names = group_names(program)
    return frozenset(n for n, (own, lacking) in zip(names, members, strict=True) if lacking.intersection(own))


def _ops(feature: SparseFeature) -> tuple[object, ...]:
    first = () if feature.first_k is None else (FirstK(feature.first_k),)
    return (*first, *feature.ops, feature.last)


def _lacks(ops: Iterable[object], cuda_ops: tuple[type, ...]) -> bool:
    return any(type(op) not in cuda_ops for op in ops)
