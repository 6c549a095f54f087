"""Windows, chunks and batches on their way: what the schedule knows of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from intune_gpu.core.source import HalfRead
from intune_gpu.engine.gather import Assembly, OrderedWindow
from intune_gpu.engine.order import Cut, Segments


@dataclass(eq=False, slots=True)
class Window:
    """A window that is to be read, being read, or read and not used up.

    Attributes:
        number: in the epoch.
        spans: the places in it that the run takes.
        uses: batches of the run that have not taken their rows yet.
        chunks: the source's numbers of its chunks.
        assembly: where they are put in order; None in file order, where a window is one chunk.
        rows: physical rows of it.
        left: rows that the run takes and no batch has taken yet; 0 before it is decoded.
        nbytes: what it is charged with, once begun.
        order_bytes: of these, for putting it in order.
        growth: what estimates were multiplied with when it was begun.
        charges: bytes of the chunks that are being read or wait to be put in place, by position.
        reading: chunks that are begun and not done.
        begun: whether a chunk of it was started.
        ordered: its rows, once all are there.
        error: what stopped it, and at which of its chunks (the first, where there are several).
    """

    number: int
    spans: Segments
    uses: int
    chunks: tuple[int, ...]
    assembly: Assembly | None
    rows: int
    left: int = 0
    nbytes: int = 0
    order_bytes: int = 0
    growth: float = 1.0
    charges: dict[int, int] = field(default_factory=dict)
    reading: int = 0
    begun: bool = False
    ordered: OrderedWindow | None = None
    error: tuple[int, Exception] | None = None


@dataclass(eq=False, slots=True)
class Read:
    """One chunk to be read: number `chunk` of the source, the `position`-th of its window.

    Attributes:
        window: which.
        position: in it.
        chunk: of the source.
        expected_bytes: what its window is charged with for it.
        to_come_bytes: of the pool, that it is charged with and has not taken yet.
        half: what it is when it is half read.
    """

    window: Window
    position: int
    chunk: int
    expected_bytes: int = 0
    to_come_bytes: int = 0
    half: HalfRead | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the order in which rows are wanted."""
        return self.window.number, self.position


@dataclass(eq=False, slots=True)
class Making:
    """Batches that one transformer makes one after another, begun together.

    Attributes:
        first: number of the first of them, in the run.
        cuts: where the rows of each stand; of more than one batch all in one window.
        charges: bytes of each, until it is finished.
        left: how many are not finished.
        is_held: whether the memory that all of them take is taken.
    """

    first: int
    cuts: tuple[tuple[Cut, ...], ...]
    charges: list[int]
    left: int = field(init=False)
    is_held: bool = False

    def __post_init__(self) -> None:
        """None is finished yet."""
        self.left = len(self.cuts)
