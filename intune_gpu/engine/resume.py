"""The state that a loader saves: where it is, and what it must be given again to go on there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import ResumeError
from intune_gpu.engine.order import total

STATE_VERSION = 1
_HINTS = {"data": " (the same files, unchanged: names, sizes, types)", "batch_size": " (in training: --batch-size)"}


def saved_state(cursor: Cursor, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values that `json.dumps` takes.

    Args:
        cursor: of the last batch that is done.
        fingerprint: everything that the order of rows and the content of batches depend on, by name.
    """
    return {"version": STATE_VERSION, "cursor": cursor.to_json(), "fingerprint": dict(fingerprint)}


def checked_cursor(state: Mapping[str, Any], fingerprint: Mapping[str, Any], rows: int) -> Cursor:
    """Return the cursor of a saved state.

    Args:
        state: what `saved_state` gave.
        fingerprint: of the loader that is to go on.
        rows: of an epoch.

    Raises:
        ResumeError: it is no state, or one of a loader that differs; the message says in what.
    """
    if not isinstance(state, Mapping) or not {"version", "cursor", "fingerprint"} <= set(state):  # type: ignore[redundant-expr]
        raise ResumeError(f"state: expected what Loader.state_dict gave, found {state!r}")
    if state["version"] != STATE_VERSION:
        raise ResumeError(
            f"state: expected version {STATE_VERSION}, found {state['version']!r}; use the release that saved it"
        )
    theirs = state["fingerprint"]
    for name, value in fingerprint.items():
        found = theirs.get(name) if isinstance(theirs, Mapping) else None
        if found != value:
            raise ResumeError(
                f"state: it was saved with {name} {found!r}, and this loader has {value!r}; go on with the {name} of "
                f"then{_HINTS.get(name, '')}, or begin anew without the state"
            )
    cursor = Cursor.from_json(state["cursor"])
    edges = [place for segment in cursor.segments for place in segment]
    ordered = edges == sorted(edges) and all(0 <= place <= rows for place in edges)
    counts = (cursor.epoch, cursor.batches_done, cursor.bad_rows)
    if (
        not ordered
        or min(counts) < 0
        or cursor.world_size < 1
        or not 0 <= cursor.rows_done <= total(cursor.segments) // cursor.world_size
    ):
        raise ResumeError(f"state: expected a place in an epoch of {rows} rows, found {cursor}; the state is damaged")
    return cursor
