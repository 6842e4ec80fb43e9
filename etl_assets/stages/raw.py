"""The raw stage: every record of a landed file, the source's own names, nothing dropped or mended.

A whole-file source is published again and again with few changes. So the raw table is cut into the partitions that
the refined table has, and only those whose records differ from what is there are published anew: downstream, exactly
those are out of date.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from etl_assets.quality.drift import column_drift, columns_check, columns_of
from etl_assets.quality.quarantine import UNPLACED, quarantine_records, quarantine_table
from etl_assets.quality.ui_table import ui_table
from etl_assets.sources import SourceRefusedError
from etl_assets.sources.records import UNPARSED, check_columns
from etl_assets.stages.asset import table_asset
from etl_assets.stages.dataset import SPECS, Dataset, Input, Spec, declare, numbered
from etl_assets.stages.profile import preview
from etl_assets.storage.configured import publisher
from etl_assets.storage.hashes import row_hash, sha256_of_lines
from etl_assets.storage.landing import LandedFile, Manifest
from etl_assets.storage.table import (
    PARTITION,
    ROW_HASH,
    SOURCE_ROW,
    SOURCE_SHA256,
    WHOLE,
    Column,
    Facts,
    Part,
    Partitioning,
    Publication,
    Table,
)

_BOOKKEEPING = (
    Column(PARTITION, "text", "Partition that the record belongs to", nullable=False),
    Column(SOURCE_ROW, "bigint", "Number of the record in the landed file, from 1", nullable=False),
    Column("_published_at", "timestamp with time zone", "When the file was published", nullable=False),
    Column(ROW_HASH, "bigint", "XXH3 hash of the record's text", nullable=False),
)
_SUMMARY_SHOWN = 50
_CASES_SHOWN = 20


@dataclass(frozen=True)
class _Reader:
    """How a dataset's landed files become records; see `raw`."""

    read: Callable[[Path], pl.DataFrame]
    required: Sequence[str]
    stays: Sequence[Sequence[str]]
    partition: pl.Expr | None
    unstable: Sequence[str]


def raw(
    dataset: Dataset,
    landed: dg.AssetsDefinition,
    *,
    required: Sequence[str],
    stays: Sequence[Sequence[str]] = (),
    partition: pl.Expr | None = None,
    unstable: Sequence[str] = (),
) -> Callable[[Callable[[Path], pl.DataFrame]], dg.AssetsDefinition]:
    """Decorate a function that reads a landed file's records as text, with `_source_row`.

    The raw table of a folder has the records of all of its files. `required` columns must be there. `stays` lists
    columns that may not vanish, each by all the names it has had: if the last file had one of them, this one must too.
    `partition` gives the partition key of a record. Records whose key is not in the dataset's calendar stay in the raw
    table and are quarantined as `unplaced`; if there are more of them than the dataset's bound, the file is refused. A
    dataset without partitions has a raw table without any, and no `partition`. `unstable` columns differ from one
    extract to the next though the record is the same: they do not tell records apart.
    """
    if (dataset.partitions is None) != (partition is None):
        has = "has partitions: say" if partition is None else "has no partitions: do not say"
        raise TypeError(f"{dataset.name} {has} with `partition` which of them a record belongs to")
    source = SPECS[landed.key]
    declared = [Column(c, "text", "As the source has it") for c in (*required, UNPARSED)]
    made = Table(
        "raw", dataset.name, (*declared, *_BOOKKEEPING), f"{dataset.title}: every record as landed",
        partitioning=None if partition is None else Partitioning(PARTITION, "value"),
    )  # fmt: skip

    def decorate(read: Callable[[Path], pl.DataFrame]) -> dg.AssetsDefinition:
        quarantine = None if partition is None else quarantine_table(dataset.name)
        inputs = {"landed": Input(source.key, None, by_partition=False)}
        spec = declare(dataset, made, read, inputs, quarantine=quarantine)

        @table_asset(
            spec,
            [
                dg.AssetCheckSpec("readable", asset=spec.key, blocking=True, description="The file holds records"),
                dg.AssetCheckSpec("columns", asset=spec.key, description="The columns are those of the last file"),
            ],
            description=f"{dataset.title}: every record of the landed file, as text. {read.__doc__ or ''}".strip(),
            ins={"landed": dg.AssetIn(source.key, input_manager_key="landing_io")},
        )
        def step(context: dg.AssetExecutionContext, landed: LandedFile) -> Iterator[Any]:
            yield from _read(context, spec, _Reader(read, required, stays, partition, unstable), landed)

        return step

    return decorate


def _read(context: dg.AssetExecutionContext, spec: Spec, reader: _Reader, landed: LandedFile) -> Iterator[Any]:
    """Judge the landed files as a whole, and publish their records, partition by partition."""
    manifest = landed.manifest
    last = context.instance.get_latest_materialization_event(spec.key)
    try:
        files, columns, drift = _records(spec, reader, landed, last)
    except SourceRefusedError as error:
        yield from _refuse(spec, manifest, f"{error}")
        return
    placed = [_placed(part, reader, spec.dataset, file) for file, part in files]
    frame = pl.concat(placed, how="diagonal") if len(placed) > 1 else placed[0]
    unplaced = frame.filter(pl.col(PARTITION) == UNPLACED)
    kept_out = None if reader.partition is None else _quarantine(unplaced, reader.partition.meta.root_names()[0])
    if kept_out is not None and spec.dataset.bound.exceeded(unplaced.height, frame.height):
        cases = kept_out.select("reason", "columns", "values", record=SOURCE_ROW).head(_CASES_SHOWN)
        why = (
            f"{_named(manifest)}: {unplaced.height} of {frame.height} records belong to no partition, such as "
            f"record {kept_out[SOURCE_ROW][0]} ({kept_out['reason'][0]}). Nothing was written, the last good state "
            "stays."
        )
        yield from _refuse(spec, manifest, why, failure_cases=ui_table(cases.to_dicts()))
    table = spec.own_table.widened(columns)
    before = publisher().warehouse.facts(table.full_name)
    made_from = spec.made_whole_from({"landed": {WHOLE: manifest.sha256}}, has_unplaced=unplaced.height > 0)
    parts = _parts(frame, _keys(table, before), made_from)
    digest = sha256_of_lines(f"{part.key} {part.digest}" for part in parts)
    publications = [Publication(table, parts, whole=made_from if table.partitioning else None)]
    if kept_out is not None:
        assert spec.quarantine is not None
        publications.append(Publication(spec.quarantine, [Part(UNPLACED, kept_out, made_from)]))
    changed = [p.key for p in parts if p.key not in before or before[p.key].content_hash != p.digest]
    in_calendar = [p for p in parts if p.key != UNPLACED]
    yield dg.Output(
        publications,
        # Always the same if there are partitions: another version would mark all as out of date, not just the changed.
        data_version=dg.DataVersion("by partition" if table.partitioning else digest),
        metadata={
            "dagster/row_count": frame.height,
            # Unless new columns are taken, those that are absent for once are not new when they come back.
            "columns": list(dict.fromkeys([*(columns_of(last) if spec.dataset.schema != "evolve" else ()), *columns])),
            "landed_file": manifest.sha256,
            "partitions_changed": len([k for k in changed if k != UNPLACED]),
            "partitions_unchanged": len([p for p in in_calendar if p.key not in changed]),
            "changed": changed[:_SUMMARY_SHOWN],
            "unparsed": frame[UNPARSED].count(),
            "unplaced": unplaced.height,
            "preview": preview(frame.select(columns)),
        },
    )
    context.log.info(f"{table.full_name}: {frame.height} records, {len(changed)} of {len(parts)} partitions changed")
    yield dg.AssetCheckResult(passed=True, check_name="readable", metadata={"records": frame.height})
    yield columns_check(drift)


def _refuse(spec: Spec, manifest: Manifest, why: str, **facts: Any) -> Iterator[Any]:
    """Put on record that nothing can be made from a landed file, and fail the step."""
    message = f"{spec.dataset.name}, {why}"
    facts = {"file": manifest.url, **facts}
    yield dg.AssetCheckResult(passed=False, check_name="readable", description=message, metadata=facts)
    raise dg.Failure(message, allow_retries=False)


def _keys(table: Table, before: Mapping[str, Facts]) -> set[str]:
    """All partitions that are on record or in the lake, so that those that the file no longer has are emptied.

    A run that was killed may have left one in the lake only. And the table as a whole, if it still holds records from
    before it was cut into partitions.
    """
    if table.partitioning is None:
        return {WHOLE}
    store = publisher().lake
    stored = store.partitions(table).keys()
    was_whole = store.facts(table, {WHOLE} & stored).get(WHOLE)
    return (before.keys() | stored) - {WHOLE} | ({WHOLE} if was_whole and was_whole.rows else set())


def _records(
    spec: Spec, reader: _Reader, landed: LandedFile, last: dg.EventLogEntry | None
) -> tuple[list[tuple[Manifest, pl.DataFrame]], list[str], list[dict[str, object]]]:
    """The records of every landed file, all columns, and how they differ from the last materialization's.

    Raises SourceRefusedError, which names the file, if the table cannot be made from it.
    """
    files: list[tuple[Manifest, pl.DataFrame]] = []
    for manifest, path in landed.files():
        with _about(manifest):
            frame = reader.read(path)
            check_columns("the file", _own(frame), reader.required)
        files.append((manifest, frame))
    columns = list(dict.fromkeys(column for _, part in files for column in _own(part)))
    drift = column_drift(columns, last)
    new, gone = ([str(row["column"]) for row in drift if row["change"] == change] for change in ("new", "gone"))
    with _about(landed.manifest):
        if all(part.is_empty() for _, part in files) and spec.dataset.max_shrink < 1:
            raise SourceRefusedError("the file has a header but no records. The last good state stays.")
        if lost := [names for names in reader.stays if set(names) & set(gone) and not set(names) & set(columns)]:
            raise SourceRefusedError(
                f"columns are gone that the last file had: {[' or '.join(names) for names in lost]}. New ones: "
                f"{new or 'none'}. If the source has renamed them, teach the dataset the new names; the last good "
                "state stays."
            )
        if new and spec.dataset.schema == "freeze":
            raise SourceRefusedError(
                f"the columns {new} are new, but the dataset's schema is frozen. Add them to the dataset, or set "
                "its schema to evolve or discard; the last good state stays."
            )
    if spec.dataset.schema == "discard":
        files = [(file, part.drop(new, strict=False)) for file, part in files]
        columns = [c for c in columns if c not in new]
    return files, columns, drift


@contextmanager
def _about(manifest: Manifest) -> Generator[None]:
    """Name the landed file in what is refused of it."""
    try:
        yield
    except SourceRefusedError as error:
        raise SourceRefusedError(f"{_named(manifest)}: {error}") from error


def _named(manifest: Manifest) -> str:
    return f"landed file {manifest.sha256[:12]} from {manifest.url}"


def made_from_file(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The SHA-256 of the landed file that a raw table was last made from."""
    event = instance.get_latest_materialization_event(key)
    found = event.asset_materialization.metadata.get("landed_file") if event and event.asset_materialization else None
    return str(found.value) if found else None


def _own(frame: pl.DataFrame) -> list[str]:
    """The source's columns of a frame."""
    return [c for c in frame.columns if not c.startswith("_")]


def _placed(frame: pl.DataFrame, reader: _Reader, dataset: Dataset, manifest: Manifest) -> pl.DataFrame:
    """The frame with its bookkeeping columns."""
    columns = _own(frame)
    if UNPARSED not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(UNPARSED))
    key = pl.lit(WHOLE)
    if dataset.partitions is not None and reader.partition is not None:
        is_known = reader.partition.is_in(list(numbered(dataset.partitions)))
        key = pl.when(is_known).then(reader.partition).otherwise(pl.lit(UNPLACED))
    published = pl.lit(manifest.published_at).str.to_datetime(time_zone="UTC", time_unit="us")
    telling = [c for c in (*columns, UNPARSED) if c not in reader.unstable]
    filled = [c for c in telling if frame[c].null_count() < frame.height] or [UNPARSED]
    return frame.with_columns(
        key.alias(PARTITION),
        row_hash(frame, filled).reinterpret(signed=True).alias(ROW_HASH),
        published.alias("_published_at"),
        pl.lit(manifest.sha256).alias(SOURCE_SHA256),
    ).select(*columns, UNPARSED, PARTITION, SOURCE_ROW, "_published_at", ROW_HASH, SOURCE_SHA256)


def _parts(frame: pl.DataFrame, known: Set[str], made_from: str) -> list[Part]:
    """The frame cut into its partitions, and an empty one for each that it no longer has.

    A partition's digest says which records it holds, in whatever order they stand in the file.
    """
    # As slices, which copy nothing: most files are in the order of their partitions.
    if not frame[PARTITION].is_sorted():
        frame = frame.sort(PARTITION, maintain_order=True)
    runs = frame[PARTITION].rle().struct.unnest()
    runs = runs.with_columns(first=pl.col("len").cum_sum() - pl.col("len"))
    found = {key: frame.slice(first, rows) for rows, key, first in runs.iter_rows()}
    return [_part(key, found.get(key, frame.clear()), made_from) for key in sorted(found.keys() | known)]


def _part(key: str, frame: pl.DataFrame, made_from: str) -> Part:
    return Part(key, frame, made_from, hashlib.sha256(frame[ROW_HASH].sort().to_numpy().tobytes()).hexdigest())


def _quarantine(unplaced: pl.DataFrame, column: str) -> pl.DataFrame:
    """Quarantine records for the raw records that belong to no partition; `column` should say which."""
    parsed, value = pl.col(UNPARSED).is_null(), pl.col(column).str.slice(0, 200)
    why = pl.lit(f"placeable: {column} is ") + value.fill_null("missing") + pl.lit(", which is in no partition")
    reason = (
        pl.when(parsed).then(why).otherwise(pl.lit("fields: the record does not have the header's number of fields"))
    )
    rejected = unplaced.select(
        PARTITION,
        SOURCE_SHA256,
        SOURCE_ROW,
        reason=reason,
        checks=pl.concat_list(pl.when(parsed).then(pl.lit("placeable")).otherwise(pl.lit("fields"))),
        columns=pl.concat_list(pl.when(parsed).then(pl.lit(column)).otherwise(pl.lit(""))),
        values=pl.concat_list(pl.coalesce(pl.col(UNPARSED).str.slice(0, 200), value, pl.lit(""))),
    )
    return quarantine_records(rejected, unplaced)
