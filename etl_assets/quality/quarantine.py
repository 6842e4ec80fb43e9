"""Quarantine: the records that were not published, with the reason, so that nothing is lost and all can be replayed.

`quarantine.<table>` is a table like any other, partitioned like the table that its records were kept out of. Each
partition is replaced together with that table's: a re-run never piles records up, and one that has become good leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from etl_assets.quality.audit import Audit
from etl_assets.sources.records import UNPARSED
from etl_assets.storage.hashes import text_hash
from etl_assets.storage.table import PARTITION, SOURCE_ROW, SOURCE_SHA256, Column, Partitioning, Table

#: The partition of records that belong to no other: without a date, or with one outside the calendar.
UNPLACED = "unplaced"

_COLUMNS = (
    Column("row_id", "text", "Hash of the record's content and of the number of equal records before it", False),
    Column(PARTITION, "text", "Partition that the record was kept out of", False),
    Column("reason", "text", "What is wrong, in words", False),
    Column("checks", "text[]", "The checks that failed", False),
    Column("columns", "text[]", "The column of each failed check; empty where it concerns the whole row", False),
    Column("values", "text[]", "The value that failed each check", False),
    Column("record", "text", "The record as the source has it, as JSON without its empty fields", False),
    Column(SOURCE_SHA256, "text", "SHA-256 of the landed file that holds the record", False),
    Column(SOURCE_ROW, "bigint", "Number of the record in that file; the first record is 1", False),
)  # fmt: skip


def quarantine_table(name: str) -> Table:
    """The quarantine of a table."""
    return Table(
        stage="quarantine",
        name=name,
        columns=_COLUMNS,
        description=f"Records of {name} that break the contract, with the reason",
        primary_key=("row_id", PARTITION),
        partitioning=Partitioning(PARTITION, "value"),
        sparse=True,
    )


def quarantined(audited: Audit, raw: pl.DataFrame, partitions: pl.Series) -> pl.DataFrame:
    """The rejected rows of an audit as quarantine records, with the raw record each was made from.

    `partitions` gives each rejected row's partition. `raw` holds the records, by `_source_sha256`, `_source_row`.
    """
    reasons = audited.failures.group_by("row", maintain_order=True).agg(
        reason=pl.concat_str(
            "check",
            pl.lit(": "),
            pl.col("column").replace("", "the row"),
            pl.lit(" is "),
            pl.col("value").fill_null("missing"),
        ).str.join("; "),
        checks="check",
        columns="column",
        values=pl.col("value").fill_null(""),
    )
    rejected = audited.rejected.select(partitions.alias(PARTITION), SOURCE_SHA256, SOURCE_ROW)
    return quarantine_records(pl.concat([rejected, reasons.sort("row").drop("row")], how="horizontal"), raw)


def quarantine_records(rejected: pl.DataFrame, raw: pl.DataFrame) -> pl.DataFrame:
    """Quarantine records from rejected rows (place in the source, partition, reason) and the raw records."""
    place = [SOURCE_SHA256, SOURCE_ROW]
    fields = [c for c in raw.columns if not c.startswith("_") or c == UNPARSED]
    bodies = raw.join(rejected.select(place), on=place, how="semi").select(*place, record=_json(fields))
    joined = rejected.join(bodies, on=place, how="left", maintain_order="left")
    nth = pl.col("record").cum_count().over("record", PARTITION)
    identity = joined.select(pl.concat_str("record", pl.lit("#"), nth)).to_series()
    return joined.with_columns(row_id=text_hash(identity).cast(pl.String)).select([column.name for column in _COLUMNS])


def _json(fields: Sequence[str]) -> pl.Expr:
    """A record as JSON, by name and without nulls: which other columns there are depends on the run's other records."""
    members = [
        pl.when(pl.col(name).is_not_null()).then(
            pl.struct(name).struct.json_encode().str.strip_prefix("{").str.strip_suffix("}")
        )
        for name in sorted(fields)
    ]
    return pl.concat_str(pl.lit("{"), pl.concat_str(members, separator=",", ignore_nulls=True), pl.lit("}"))
