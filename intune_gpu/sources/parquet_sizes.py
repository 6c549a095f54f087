"""How large a row group becomes: estimated from its footer, and known once it is half decoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from intune_gpu.core.arrow_types import VIEWS
from intune_gpu.core.columns import STRING, ColumnType, Schema

_TEXT_MARGIN = 1.25
_VIEW_BYTES = 16
_LEVEL_BYTES = 4
_PAGE_BYTES = 8
"""A value of a page that is being decompressed, at most; columns of numbers are, one after another."""


def column_bytes(type: ColumnType, rows: int, values: int, encoded_bytes: int, text_bytes: float) -> int:
    """Return an upper estimate of one flat column's bytes. Text is exact for plain pages, else by the sample."""
    size = values // 8 + 2 + (8 * (rows + 1) if type.is_list else 0)
    if type.physical != STRING:
        return size + values * np.dtype(type.physical).itemsize
    return size + 8 * (values + 1) + max(encoded_bytes, int(values * text_bytes * _TEXT_MARGIN))


def scratch_bytes(rows: int, texts: Mapping[str, tuple[int, int]], largest_bytes: int) -> int:
    """Return an upper estimate of what decoding takes besides the flat columns, and what a half decoded chunk holds.

    Strings come as views: 16 bytes each, and their text as it stands in the file, where a dictionary's stands once.
    Arrow writes a column's text into memory that it doubles as it goes.

    Args:
        rows: of the row group.
        texts: column → (values, bytes in the file without compression), of strings, and ids that are written as such.
        largest_bytes: of the flat columns of strings.
    """
    views = sum(_VIEW_BYTES * values + encoded for values, encoded in texts.values())
    return _PAGE_BYTES * rows + views + largest_bytes


def arrow_scratch_bytes(values: int, encoded_bytes: int, flat_bytes: int) -> int:
    """Return what a column takes besides while pyarrow decodes it: its pages, levels, and memory that it doubles."""
    return encoded_bytes + _LEVEL_BYTES * values + flat_bytes


def flat_bytes(table: pa.Table, schema: Schema) -> tuple[int, int, int]:
    """Return (bytes of a half decoded table's flat columns, what it holds for them, what making them takes besides)."""
    flat = held = largest = 0
    for name, type in schema.items():
        column = table.column(name)
        if type.is_list or type.physical == STRING:
            nbytes = 8 * (table.num_rows + 1) if type.is_list else 0
            for leaf in map(_leaf, column.chunks):
                nbytes += len(leaf) // 8 + 2 + _leaf_bytes(leaf, type)
        else:
            nbytes = table.num_rows * np.dtype(type.physical).itemsize + table.num_rows // 8 + 2 * column.num_chunks
        flat += nbytes
        largest = max(largest, nbytes if column.type in VIEWS and type.physical == STRING else 0)
        if type.hex32 or type.is_list or type.physical == STRING:  # else the buffers are shared
            held += sum(buffer.size for piece in column.chunks for buffer in piece.buffers() if buffer is not None)
            held -= sum(_shared_bytes(leaf) for leaf in map(_leaf, column.chunks)) if type.is_list else 0
    return flat, held, held + largest


def _shared_bytes(leaf: pa.Array) -> int:
    """Return the bytes of a list's values, or of their text, which stay what they are."""
    if isinstance(leaf, pa.DictionaryArray) or leaf.type in VIEWS or not leaf.buffers():
        return 0
    last = leaf.buffers()[-1]
    return 0 if last is None else int(last.size)


def _leaf(piece: pa.Array) -> pa.Array:
    """Return the elements of a list, and anything else as it is."""
    while isinstance(piece, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        piece = piece.values
    return piece


def _leaf_bytes(leaf: pa.Array, type: ColumnType) -> int:
    """Return the bytes of values, or of texts and their offsets."""
    if type.physical != STRING:
        return len(leaf) * np.dtype(type.physical).itemsize
    if isinstance(leaf, pa.DictionaryArray):
        return 4 * len(leaf) + _leaf_bytes(leaf.dictionary, type)
    if leaf.type in VIEWS:
        words = np.frombuffer(leaf.buffers()[1], np.int32)  # a view begins with its length, 0 where there is none
        return 8 * (len(leaf) + 1) + int(words[4 * leaf.offset : 4 * (leaf.offset + len(leaf)) : 4].sum(dtype=np.int64))
    text = leaf.buffers()[-1]
    return 8 * (len(leaf) + 1) + (0 if text is None else text.size)
