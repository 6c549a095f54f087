"""Opening Parquet files, reading their footers, and whom to blame where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.errors import DataError
from intune_gpu.sources.files import file_identity, is_url, open_file, read_into, unreadable

_SIGNATURE_BYTES = 28
"""Behind a footer that can be read, where columns are encrypted (Parquet Modular Encryption, section 5.2)."""


@contextmanager
def opened(path: str, footer: pq.FileMetaData | None) -> Iterator[pq.ParquetFile]:
    """Open for one use: a ParquetFile may not serve two threads at once, and opening takes under 1 ms."""
    source = open_file(path) if is_url(path) else pa.OSFile(path)  # Arrow's own file reads without the GIL
    try:
        # Extension types are of no use here, and hide what they are stored as.
        parquet = pq.ParquetFile(source, metadata=footer, pre_buffer=is_url(path), arrow_extensions_enabled=False)
        with parquet:
            yield parquet
    finally:
        source.close()


def read_footer(path: str) -> tuple[tuple[int, int], pq.FileMetaData, pa.Schema]:
    """Return (identity of the file, footer, schema as Arrow has it).

    Raises:
        DataError: the file is missing, empty, encrypted or not Parquet.
    """
    identity = file_identity(path)
    if identity[0] == 0:
        raise DataError(f"{path}: expected a Parquet file, found an empty file; remove it from the data")
    with blame(path), opened(path, None) as parquet:
        footer_bytes = bytearray(4)
        read_into(path, max(0, identity[0] - 8), memoryview(footer_bytes))
        if int.from_bytes(footer_bytes, "little") == parquet.metadata.serialized_size + _SIGNATURE_BYTES:
            raise _encrypted(path)  # to ask such a footer about an encrypted column ends the process
        return identity, parquet.metadata, parquet.schema_arrow


@contextmanager
def blame(where: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(where, error) from error
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _damaged(where, error) from error
    except pl.exceptions.PanicException as error:  # not an Exception: Polars' word for "this cannot happen"
        raise _damaged(where, error) from error


def _damaged(where: str, error: BaseException) -> DataError:
    words = str(error).strip().split("\n")[0]
    if "encrypted metadata" in words:
        return _encrypted(where)
    return DataError(
        f"{where}: expected readable Parquet data, found it truncated or damaged ({type(error).__name__}: {words}); "
        "write the file again or leave it out of the data"
    )


def _encrypted(path: str) -> DataError:
    return DataError(
        f"{path}: expected Parquet that is not encrypted, found encrypted columns; write it again without encryption"
    )
