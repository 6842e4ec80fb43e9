"""Arrow tables into PostgreSQL by binary COPY.

Here: giving each Arrow column the type that its PostgreSQL column is sent as, and streaming the batches.
Not here: which rows go into which table and in which transaction; that is the warehouse's.

pgpq encodes, and Arrow's checked casts supply the types that it lacks. A million rows take 0.3 s to encode
and the server 7 s to store: neither encoding ahead in a thread nor an encoder of our own in numpy and Arrow
made a load faster (measured).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import psycopg
import pyarrow as pa
import pyarrow.types as arrow
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb
from psycopg import sql

BATCH_ROWS = 16_384
BATCH_BYTES = 2 << 20  # small, so that the server works on one batch while the next is encoded

_TEXT = (arrow.is_string, arrow.is_large_string, arrow.is_string_view)
_BYTES = (arrow.is_binary, arrow.is_large_binary, arrow.is_binary_view, arrow.is_fixed_size_binary)
# No list views: pyarrow 26 casts one with nulls to an invalid array.
_LIST = (arrow.is_list, arrow.is_large_list, arrow.is_fixed_size_list)
_TIMESTAMP = (arrow.is_timestamp,)

#: For a PostgreSQL type, as `format_type` spells it, the Arrow type that it is sent as, and the Arrow types accepted
#: for it: those whose cast to the former keeps the value or fails. Casts that Arrow rounds silently are missing on
#: purpose: float to decimal, timestamp to date, double to float.
_WIRE: dict[str, tuple[pa.DataType, tuple[Callable[[pa.DataType], bool], ...]]] = {
    "boolean": (pa.bool_(), (arrow.is_boolean,)),
    "smallint": (pa.int16(), (arrow.is_integer,)),
    "integer": (pa.int32(), (arrow.is_integer,)),
    "bigint": (pa.int64(), (arrow.is_integer,)),
    "real": (pa.float32(), (arrow.is_float16, arrow.is_float32)),
    "double precision": (pa.float64(), (arrow.is_floating, arrow.is_integer)),
    "numeric": (pa.decimal128(38, 0), (arrow.is_decimal,)),
    "text": (pa.string(), _TEXT),
    "jsonb": (pa.string(), _TEXT),
    "bytea": (pa.binary(), _BYTES),
    "geometry": (pa.binary(), _BYTES),
    "date": (pa.date32(), (arrow.is_date,)),
    "time without time zone": (pa.time64("us"), (arrow.is_time,)),
    "timestamp without time zone": (pa.timestamp("us"), _TIMESTAMP),
    "timestamp with time zone": (pa.timestamp("us", "UTC"), _TIMESTAMP),
}


def copy_table(cursor: psycopg.Cursor, target: sql.Composable, table: pa.Table, types: Mapping[str, str]) -> None:
    """COPY every row of `table` into `target`, column by name.

    `target` is a schema-qualified identifier; `types` gives the PostgreSQL type of every column of `table`:
    "bigint", "numeric(12,2)", "text[]", "geometry(Point,4326)", and so on. Whatever the table's size, at most
    a few batches of it are held in memory twice.

    Values arrive as they are or not at all: an integer out of range or a digit too many is an error. Timestamps
    with and without a zone convert into each other as UTC. Geometries are WKB; those without an SRID take the
    column's.

    Raises ValueError: before anything is sent, if the columns are not those of `types` or one has an Arrow
    type that does not fit; naming the column, if a value does not fit; naming column and line (the first is 1),
    if the server refuses, for instance a NUL character in text or a foreign SRID. The last two leave the
    transaction failed.
    """
    if sorted(table.schema.names) != sorted(types):
        raise ValueError(f"the table has the columns {table.schema.names}, types are given for {list(types)}")
    encoding = cursor.connection.info.encoding
    if encoding not in ("utf-8", "ascii"):
        raise ValueError(f"binary COPY sends UTF-8, and this connection is set to {encoding}")
    wire = pa.schema([_wire_field(field, types[field.name]) for field in table.schema])
    columns = sql.SQL(", ").join(map(sql.Identifier, wire.names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(target, columns)
    try:
        with cursor.copy(statement) as copy:
            for data in _encode(_batches(table), wire, types):
                copy.write(data)
    except (psycopg.DataError, psycopg.errors.DatatypeMismatch) as error:
        raise ValueError(str(error)) from error


def _wire_field(field: pa.Field, sql_type: str) -> pa.Field:
    """The field in the Arrow type that it is sent as."""
    try:
        return pa.field(field.name, _wire_type(field.type, sql_type))
    except ValueError as error:
        raise ValueError(f"column {field.name!r}: {error}") from error


def _wire_type(source: pa.DataType, sql_type: str) -> pa.DataType:
    if sql_type.endswith("[]") and (_is(source, _LIST) or arrow.is_null(source)):
        item = pa.null() if arrow.is_null(source) else source.value_type
        return pa.list_(_wire_type(item, sql_type.removesuffix("[]")))
    if arrow.is_dictionary(source):
        source = source.value_type
    name, _, modifier = sql_type.partition("(")
    if name not in _WIRE:
        raise ValueError(f"cannot send {source} as {sql_type}")
    wire, accepted = _WIRE[name]
    if not arrow.is_null(source) and not _is(source, accepted):
        raise ValueError(f"{source} is not {sql_type}")
    if name == "numeric" and modifier:
        return pa.decimal128(*map(int, modifier.removesuffix(")").split(",")))
    if name == "numeric" and arrow.is_decimal(source):
        return pa.decimal128(38, source.scale)
    return wire


def _is(source: pa.DataType, tests: tuple[Callable[[pa.DataType], bool], ...]) -> bool:
    return any(test(source) for test in tests)


def _batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """All rows, in slices of a bounded number of rows and bytes."""
    for batch in table.to_batches():
        fitting = BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)
        step = min(max(fitting, 1), BATCH_ROWS)
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)


def _encode(batches: Iterator[pa.RecordBatch], wire: pa.Schema, types: Mapping[str, str]) -> Iterator[bytes]:
    """The stream of COPY's binary format, piece by piece."""
    encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(
        wire,
        {
            field.name: StringEncoderBuilder.new_with_output(field, Jsonb())
            if types[field.name] == "jsonb"
            else ArrowToPostgresBinaryEncoder.infer_encoder(field)
            for field in wire
        },
    )
    yield encoder.write_header()
    for batch in batches:
        yield encoder.write_batch(_cast(batch, wire))
    yield encoder.finish()


def _cast(batch: pa.RecordBatch, wire: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field, column in zip(wire, batch.columns, strict=True):
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {field.name!r}: {error}") from error
    return pa.record_batch(columns, schema=wire)
