"""The starter recipe: which feature a column becomes, or why it is left out. docs/recipe.md has the rules in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from intune_gpu.cli.profile import Numbers, Profile
from intune_gpu.recipe import Bucketize, Clip, Column, FillMissing, FirstK, HashBucket, Log1p, MissingFlag, Scale
from intune_gpu.recipe.ops import Op

_ID_NAME = re.compile(
    r"(^|[_\W])(id|ids|uid|uuid|guid|key|code|hash|zip|zipcode|postcode|sku|category|cat|type|kind|class)$|[a-z](Id|ID)$",
)
_COUNT_NAME = re.compile(
    r"(^|[_\W\d])(n|num|number|count|cnt|qty|quantity|amount|price|cost|total|sum|age|days?|hours?|minutes?|seconds?|"
    r"length|len|size|duration|score|rank|position|views|clicks|impressions|visits|year)([_\W\d]|$)",
    re.IGNORECASE,
)
_TIME_NAME = re.compile(r"(time|date|stamp|epoch|(^|_)ts|_at)$", re.IGNORECASE)
_EPOCHS = (315_532_800, 4_102_444_800)  # 1980 to 2100, in seconds

_FEW_VALUES = 50
_ID_SPREAD = 50
_FLOAT32_WHOLE = 1 << 24  # whole numbers beyond it are not exact in float32
_HEAVY_TAIL = 8.0
_TINY_PART = 100
_LONG_LIST = 32
_BUCKETS_A_VALUE = 4
_MIN_BUCKETS, _MAX_BUCKETS = 16, 1 << 20


@dataclass(frozen=True)
class Choice:
    """What becomes of a column.

    Attributes:
        column: its name.
        use: "label", "dense", "sparse" or "left out".
        feature: the feature's name; None unless dense or sparse.
        ops: the feature's chain.
        declared: what `Recipe.types` says of the column, or None.
        why: in words.
    """

    column: str
    use: Literal["label", "dense", "sparse", "left out"]
    feature: str | None = None
    ops: tuple[Op, ...] = ()
    declared: str | None = None
    why: str = ""


def choose(profiles: Sequence[Profile], label: str, give_aways: Mapping[str, str]) -> list[Choice]:
    """Return a choice for every column, in their order.

    Args:
        profiles: of all columns.
        label: the column that is learned.
        give_aways: columns that say what the label says, and how.
    """
    choices: list[Choice] = []
    for found in profiles:
        if found.name == label:
            choices.append(Choice(label, "label", why="what is learned"))
        elif found.name in give_aways:
            choices.append(Choice(found.name, "left out", why=give_aways[found.name]))
        else:
            choices.append(_choose(found))
    return _named(choices)


def with_buckets(choices: Sequence[Choice], profiles: Sequence[Profile]) -> list[Choice]:
    """Add one number in buckets as an id where there is no id at all: a DLRM needs a sparse feature."""
    if any(choice.use == "sparse" for choice in choices):
        return list(choices)
    numbers = {found.name: found for found in profiles if found.numbers is not None}
    for choice in choices:
        if choice.use == "dense" and choice.column in numbers:
            borders = _borders(numbers[choice.column])
            ops: tuple[Op, ...] = (Column(choice.column), Bucketize(borders))
            why = "in buckets, since there is no id and a DLRM needs one"
            return [*choices, *_named([Choice(choice.column, "sparse", f"{choice.column}_bucket", ops, why=why)])]
    return list(choices)


def buckets(distinct: int) -> int:
    """Return the rows of an embedding table: the power of two at or above 4 times the values, 16 to 1,048,576.

    With d values in n buckets a value shares its bucket with probability 1 - exp(-d / n), 22 % at 4 times. The bound
    keeps a table of 16 floats a row, and its optimizer's state, at 128 MiB.
    """
    wanted = max(1, _BUCKETS_A_VALUE * distinct)
    return min(max(_MIN_BUCKETS, 1 << (wanted - 1).bit_length()), _MAX_BUCKETS)


def _choose(found: Profile) -> Choice:
    reason = _unfit(found)
    if reason is not None:
        return Choice(found.name, "left out", why=reason)
    if found.is_list or found.kind == "text":
        return _hashed(found)
    if found.distinct == 1 and found.kind != "integer":
        told = "one value: all it tells is whether it is there"
        return Choice(found.name, "dense", found.name, (MissingFlag(),), why=told)
    if found.kind == "bool":
        return Choice(found.name, "dense", found.name, (FillMissing(0.0),), why="true is 1")
    if found.kind == "integer":
        why = _id_reason(found)
        if why is not None:
            return _hashed(found, why)
    return _number(found)


def _unfit(found: Profile) -> str | None:
    """Return why a column can teach nothing, or cannot be used."""
    if not found.name:
        return "it has no name"
    if found.refused:
        return found.refused
    if found.kind == "empty":
        return "all missing"
    if found.distinct is None:
        return f"{found.type} cannot be looked at"
    if found.distinct <= 1 and not found.missing and not found.is_list:
        return "constant"
    if found.distinct == 0:
        return "it holds no value"
    if found.is_list and found.distinct == 1 and found.longest <= 1 and not found.missing:
        return "constant"
    if found.kind == "integer" and not found.is_list and _is_time(found):
        return "a time in seconds, or parts of them: write what matters of it (hour, weekday, age in days)"
    if found.near_unique and found.kind == "text":
        return "nearly every row has another value: a row id, or free text"
    if found.near_unique and found.kind == "integer" and not _COUNT_NAME.search(found.name):
        assert found.numbers is not None
        if _is_id_name(found.name) or found.numbers.rising or _is_wide(found):
            return "nearly every row has another value: a row id"
    if found.kind == "float" and (found.numbers is None or _beyond_float32(found.numbers)):
        return "its values do not fit float32"
    return None


def _hashed(found: Profile, why: str = "") -> Choice:
    assert found.distinct is not None
    ops: list[Op] = []
    if found.is_list and found.longest > _LONG_LIST:
        ops.append(FirstK(_LONG_LIST))
        why = f"lists of up to {found.longest:,}, of which the first {_LONG_LIST} are kept"
    ops.append(HashBucket(buckets(found.distinct)))
    return Choice(found.name, "sparse", found.name, tuple(ops), "hex32" if found.is_hex else None, why)


def _id_reason(found: Profile) -> str | None:
    """Return why an integer is an id, or None where it is a number."""
    assert found.distinct is not None
    if _is_id_name(found.name):
        return "an id, by its name"
    if _COUNT_NAME.search(found.name):
        return None
    if found.distinct <= _FEW_VALUES:
        return "few values: a category"
    return "large and spread as ids are" if _is_wide(found) else None


def _number(found: Profile) -> Choice:
    numbers = found.numbers
    assert numbers is not None
    low, high = (numbers.lowest, numbers.highest) if numbers.infinite else (None, None)
    skewed = numbers.p99 > _HEAVY_TAIL * max(numbers.median, 1.0)
    if skewed and numbers.lowest >= -numbers.p99 / _TINY_PART:
        ops: tuple[Op, ...] = (FillMissing(0.0), Clip(min=0.0, max=high), Log1p())
        return Choice(found.name, "dense", found.name, ops, why="hardly ever negative, with a long tail")
    mean, std = _digits(numbers.mean), _digits(numbers.std)
    bounded = (Clip(low, high),) if numbers.infinite else ()
    scaled = (Scale(mean, std),) if std > np.finfo(np.float32).tiny else ()
    why = "a number, without the infinite ones" if numbers.infinite else "a number"
    return Choice(found.name, "dense", found.name, (FillMissing(mean), *bounded, *scaled), why=why)


def _is_id_name(name: str) -> bool:
    return _ID_NAME.search(name) is not None or _ID_NAME.search(name.lower()) is not None


def _is_wide(found: Profile) -> bool:
    """Whether values are large, far apart and not mostly near one end, as random ids are."""
    numbers = found.numbers
    if numbers is None or found.distinct is None or found.minimum is None:
        return False
    span = int(found.maximum) - int(found.minimum)
    middle = (numbers.median - int(found.minimum)) / max(1, span)
    return span > max(_ID_SPREAD * found.distinct, _FLOAT32_WHOLE) and 0.25 < middle < 0.75


def _is_time(found: Profile) -> bool:
    if not _TIME_NAME.search(found.name) or found.minimum is None:
        return False
    return any(_EPOCHS[0] * unit <= found.minimum and found.maximum <= _EPOCHS[1] * unit for unit in (1, 1e3, 1e6, 1e9))


def _beyond_float32(numbers: Numbers) -> bool:
    limit = float(np.finfo(np.float32).max)
    return not all(abs(n) < limit for n in (numbers.mean, numbers.std, numbers.lowest, numbers.highest))


def _borders(found: Profile) -> list[float]:
    numbers = found.numbers
    assert numbers is not None
    return sorted({_digits(q) for q in numbers.deciles})


def _digits(number: float) -> float:
    """Keep six digits: a recipe is read by people, and a sample knows no more."""
    return float(f"{number:.6g}")


def _named(choices: Sequence[Choice]) -> list[Choice]:
    """Rename features that torch cannot name a module after, which a dot in the name of an embedding table forbids."""
    taken = {choice.feature for choice in choices if choice.feature}
    out: list[Choice] = []
    for choice in choices:
        if choice.use == "sparse" and choice.feature and "." in choice.feature:
            name = choice.feature.replace(".", "_")
            while name in taken:
                name += "_"
            taken.add(name)
            reads = () if isinstance(choice.ops[0], Column) else (Column(choice.column),)
            choice = replace(choice, feature=name, ops=(*reads, *choice.ops))
        out.append(choice)
    return out
