"""Which share of the batches a group of features is transformed on the GPU for; it never changes the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CPU, GPU = 0.0, 1.0
_NAMES = {"cpu": CPU, "gpu": GPU}


@dataclass(frozen=True, slots=True)
class Placement:
    """A share for each group of features.

    Attributes:
        everywhere: share of the batches, 0 (all on the CPU) to 1 (all on the GPU), of groups that are not named.
        groups: (name, share) of others, as `Loader.groups` names them.
    """

    everywhere: float = GPU
    groups: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, value: Placement | str | float | Mapping[str, str | float]) -> Placement:
        """Read what a user may write: "cpu", "gpu", a share of 0 to 1, or a mapping of group names to those.

        Raises:
            ValueError: it is none of them.
        """
        if isinstance(value, Placement):
            return value
        if isinstance(value, Mapping):
            rest = _share(value.get("*", GPU))
            return cls(rest, tuple(sorted((str(name), _share(one)) for name, one in value.items() if name != "*")))
        return cls(_share(value))

    @property
    def is_constant(self) -> bool:
        """Whether each group is always on the same side."""
        return all(share in (CPU, GPU) for share in (self.everywhere, *(share for _, share in self.groups)))

    def share(self, group: str) -> float:
        """Return the share of a group."""
        return dict(self.groups).get(group, self.everywhere)

    def on_gpu(self, group: str, number: int) -> bool:
        """Whether a group goes to the GPU for batch `number`, counted from 0: spread evenly over the batches."""
        share = self.share(group)
        return int((number + 1) * share) > int(number * share)


ALL_ON_GPU, ALL_ON_CPU = Placement(GPU), Placement(CPU)


def _share(value: object) -> float:
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0:
        return float(value)
    raise ValueError(f'placement: expected "cpu", "gpu" or a share of the batches from 0 to 1, found {value!r}')
