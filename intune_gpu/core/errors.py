"""Every error a user can meet; each message names the thing, the expected, the found and the way out."""

from __future__ import annotations


class IntuneError(Exception):
    """Base of all errors that this package raises on purpose."""


class RecipeError(IntuneError, ValueError):
    """A recipe is wrong in itself, or does not fit the columns it is given."""


class DataError(IntuneError):
    """A file is missing, empty, truncated, unreadable, or not what the recipe needs.

    Attributes:
        stage, file, row: where a worker met it, as in `StageError`; None where none did, as when files are opened.
    """

    stage: str | None = None
    file: str | None = None
    row: int | None = None


class BadRowError(DataError):
    """A row could not be used and `on_bad_row="raise"` was asked for."""


class TooManyBadRowsError(DataError):
    """More rows were bad than `max_bad_fraction` allows."""


class BudgetError(IntuneError, ValueError):
    """A byte budget is below what one shuffle window and one chunk a reader need."""


class DeviceError(IntuneError, ValueError):
    """A device that was asked for is not there, or cannot be used."""


class ResumeError(IntuneError, ValueError):
    """A saved state does not belong to this data, recipe or batch size."""


class MissingPackageError(IntuneError, ImportError):
    """An optional package that this call needs is not installed."""


class StageError(IntuneError, RuntimeError):
    """A worker failed; the message names its stage, file and row, `__cause__` is what it met.

    Args:
        message: the whole sentence.
        stage: `"read"` or `"transform"`.
        file: the file that was read, or None where no single file is to blame.
        row: first physical row (0-based, in that file) of the piece of work that failed, or None.
    """

    def __init__(self, message: str, *, stage: str, file: str | None = None, row: int | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.file = file
        self.row = row
