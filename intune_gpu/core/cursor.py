"""Where in an epoch a batch ends: all that has to be saved to resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intune_gpu.core.errors import ResumeError


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place just behind a batch, in one rank's run of one epoch.

    An epoch is one permuted sequence of all rows. `segments` are the parts of it that are shared out among
    `world_size` ranks (the whole of it, unless the number of ranks changed in mid-epoch); each rank takes an equal
    contiguous run of them, of which `rows_done` rows are done.

    Attributes:
        epoch: from 0.
        segments: half-open intervals of the epoch's permuted rows, in order.
        world_size: ranks that share the segments.
        rows_done: physical rows of the rank's run that are behind this cursor, bad ones included.
        batches_done: batches of the epoch that this rank has behind it.
        bad_rows: bad rows among `rows_done`.
    """

    epoch: int
    segments: tuple[tuple[int, int], ...]
    world_size: int
    rows_done: int
    batches_done: int
    bad_rows: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes."""
        return {
            "epoch": self.epoch,
            "segments": [list(s) for s in self.segments],
            "world_size": self.world_size,
            "rows_done": self.rows_done,
            "batches_done": self.batches_done,
            "bad_rows": self.bad_rows,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Cursor:
        """Rebuild what `to_json` gave.

        Raises:
            ResumeError: a field is missing or has another type.
        """
        try:
            return cls(
                epoch=int(state["epoch"]),
                segments=tuple((int(a), int(b)) for a, b in state["segments"]),
                world_size=int(state["world_size"]),
                rows_done=int(state["rows_done"]),
                batches_done=int(state["batches_done"]),
                bad_rows=int(state["bad_rows"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ResumeError(
                f"cursor: expected epoch, segments, world_size, rows_done, batches_done and bad_rows, found {state!r}; "
                "pass a state that Loader.state_dict gave"
            ) from error
