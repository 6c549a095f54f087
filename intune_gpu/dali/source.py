"""A user's own DALI pipelines as a source of rows for `Loader`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from nvidia.dali import Pipeline
from nvidia.dali.backend import TensorListGPU

from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import check_label, column_types
from intune_gpu.core.columns import Chunk, ChunkInfo
from intune_gpu.core.errors import DataError, RecipeError
from intune_gpu.core.source import Source
from intune_gpu.dali.samples import Layout, Samples
from intune_gpu.recipe import Recipe

NO_NAMES: Mapping[str, str] = {}


class PipelineSource(Source):
    """Rows that DALI pipelines give: one pipeline a chunk, made anew whenever its chunk is read.

    A `Loader` shuffles chunks, shares them out to ranks, and reads them again to resume: so a single pipeline, which
    only goes on, is no source, and a function that makes the pipeline of any chunk is one. Of such a function
    `fn.readers.*(shard_id=chunk, num_shards=...)` can be the heart, or an external source that begins at a chunk's
    first row.

    Args:
        make: number of a chunk, from 0 → its pipeline, on the CPU: all rows of the chunk, the same ones each time, in
            batches of any size. What comes behind the chunk's rows is left. A function with `@pipeline_def` whose first
            argument is the number will do. It is called in several threads at once.
        names: of the pipeline's outputs, in order.
        recipe: what will be computed: which of them are read, and as what.
        rows: of each chunk.
        version: names the data and the pipelines in saved states; change it when either changes.
        strings, lists: outputs whose samples are a row's string, or a row's list, as `fn.transform` takes them.
        present: column → the output that says where it has a value, by 0 and 1.

    Raises:
        RecipeError: the recipe reads what no output is named, or what DALI's samples cannot hold.
        DataError: a pipeline cannot be made or run, gives too few rows, or other rows each time.
        ValueError: an argument is of another kind.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        names: Sequence[str],
        recipe: Recipe,
        *,
        rows: Sequence[int],
        version: str,
        strings: Collection[str] = (),
        lists: Collection[str] = (),
        present: Mapping[str, str] = NO_NAMES,
    ) -> None:
        _check_make(make)
        _check_rows(rows)
        self._make, self._label = make, recipe.label
        lacking = [name for name in (*recipe.columns, *present.values()) if name not in names]
        if lacking:
            raise RecipeError(
                f"names: expected the outputs {', '.join(recipe.columns)} among them, found {', '.join(names)}, and no "
                f"{', '.join(lacking)}; name the pipeline's outputs in order"
            )
        self._layout = Layout.of(recipe.columns, strings, lists, present)
        self._places = [list(names).index(name) for name in recipe.columns]
        self._places += [list(names).index(present[name]) for name in self._layout.present]
        self._outputs = len(names)
        first = self._probe()
        self.schema = {
            name: type if type.is_list or type.hex32 else replace(type, nullable=name in present)
            for name, type in column_types(first.schema, recipe.columns, recipe.types).items()
        }
        check_label(self._label, self.schema[self._label])
        row_nbytes = -(-5 * first.nbytes // (4 * max(1, first.num_rows)))  # strings further on may be longer
        self.chunks = tuple(
            ChunkInfo(f"DALI pipeline {chunk}", 0, count, row_nbytes * count) for chunk, count in enumerate(rows)
        )
        types = {name: str(type) for name, type in self.schema.items()}
        words = json.dumps([version, list(names), list(rows), types], ensure_ascii=False)
        self.fingerprint = f"dali {hashlib.sha256(words.encode()).hexdigest()[:16]}"

    def read(self, index: int) -> Chunk:
        """Make the chunk's pipeline, and run it for as many batches as hold its rows."""
        wanted = self.chunks[index].rows
        table = self._table(index, wanted)
        if table.num_rows < wanted:
            raise DataError(
                f"DALI pipeline {index}: expected {wanted} rows, found {table.num_rows}; correct rows=, or give each "
                "shard its own number"
            )
        return chunk_from_table(table.slice(0, wanted), self.schema, self._label)

    def _probe(self) -> pa.Table:
        """Return the first batch of the first chunk, once it came twice."""
        first, again = self._table(0, 1), self._table(0, 1)
        if _bytes(first) != _bytes(again):
            raise DataError(
                "DALI pipeline 0: expected the same rows from each pipeline of a chunk, since chunks are read again to "
                "resume, found others the second time; give the pipeline a seed, and its operators no state"
            )
        return first

    def _table(self, chunk: int, wanted: int) -> pa.Table:
        """Return at least so many rows of a chunk, in whole batches; fewer where its pipeline ends before."""
        try:
            pipeline = self._make(chunk)
            if not isinstance(pipeline, Pipeline):
                raise RecipeError(
                    f"make: expected a DALI pipeline for chunk {chunk}, found {pipeline!r}; return one, as a function "
                    "with @pipeline_def does"
                )
            tables: list[pa.Table] = []
            while sum(table.num_rows for table in tables) < wanted:
                try:
                    outputs = pipeline.run()
                except StopIteration:
                    break
                tables.append(self._layout.table(self._samples(outputs)))
        except (DataError, RecipeError):
            raise
        except Exception as error:
            raise DataError(
                f"DALI pipeline {chunk}: expected batches of rows, found {type(error).__name__}: "
                f"{next(iter(str(error).strip().splitlines()), 'no words')}; run it by itself with .run()"
            ) from error
        if not tables:
            raise DataError(f"DALI pipeline {chunk}: expected {wanted} rows, found none; correct rows=")
        return pa.concat_tables(tables)

    def _samples(self, outputs: Sequence[Any]) -> list[Samples]:
        if len(outputs) != self._outputs:
            raise RecipeError(
                f"names: expected a name for each of the pipeline's {len(outputs)} outputs, found {self._outputs}"
            )
        ragged = self._layout.strings | self._layout.lists
        of_columns = [name in ragged for name in self._layout.names] + [False] * len(self._layout.present)
        return [_arrays(outputs[place], own) for place, own in zip(self._places, of_columns, strict=True)]


def _arrays(output: Any, ragged: bool) -> Samples:
    """Return the samples of an output, copied, since DALI uses its memory again; numbers, where they can be, as one."""
    if isinstance(output, TensorListGPU):
        raise RecipeError("pipeline: expected outputs on the CPU, found one on the GPU; take .cpu() of it")
    if output.is_dense_tensor():
        array = np.array(output.as_array())
        return [array.reshape(-1)] if array.ndim < 3 and not ragged else list(array)
    return [np.array(output.at(i)) for i in range(len(output))]


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _check_make(make: Any) -> None:
    if isinstance(make, Pipeline) or not callable(make):
        raise ValueError(
            "make: expected a function from a chunk's number to its pipeline, since a loader reads chunks in any order "
            f"and reads them again to resume, found {make!r}; write one, or iterate over the pipeline with DALI's own "
            "iterator and intune_gpu.dali.fn.transform"
        )


def _check_rows(rows: Any) -> None:
    wrong = isinstance(rows, str) or not isinstance(rows, Sequence) or not rows
    if wrong or any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in rows):
        raise ValueError(
            f"rows: expected the rows of each chunk, at least 1, found {rows!r}; write rows=[1000, 1000, 600]"
        )
