"""A table as a Parquet file; needs the extra `parquet`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

BATCH = 5_000
NUMBERS = {"p_value": pa.float64(), "score": pa.float64()}
PIXELS = dict.fromkeys(("region_x", "region_y", "region_width", "region_height"), pa.int32())
TYPES = NUMBERS | PIXELS | {"received_at": pa.timestamp("us", tz="UTC")}


def write(file: IO[bytes], columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """A few thousand rows at a time; columns without a type of their own are strings."""
    schema = pa.schema([(name, TYPES.get(name, pa.string())) for name in columns])
    with ParquetWriter(file, schema) as writer:
        for batch in _batches(iter(rows)):
            records = [dict(zip(columns, row, strict=True)) for row in batch]
            writer.write_table(pa.Table.from_pylist(records, schema))


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while batch := list(islice(rows, BATCH)):
        yield batch
