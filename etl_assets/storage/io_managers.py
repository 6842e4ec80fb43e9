"""The Dagster IO managers over the storage: what a step yields is published, what it asks for is read from the lake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from etl_assets.storage import connections
from etl_assets.storage.changes import Changes
from etl_assets.storage.configured import lake, landing_store, publisher
from etl_assets.storage.lake import Loaded
from etl_assets.storage.landing import Landed, LandedFile
from etl_assets.storage.table import Publication, Published, Table


class LandingIOManager(dg.IOManager):
    """Lands a fetched file; gives it back as a `LandedFile`."""

    def handle_output(self, context: dg.OutputContext, obj: Landed) -> None:
        """Land what is new; a file that is already known changes nothing."""
        store = landing_store(context.asset_key.path[-1])
        if obj.manifest.members:
            store.land_set(obj.new, obj.manifest)
            return
        for path, manifest in obj.new:
            if manifest.batch is not None:
                store.land_batch(path, manifest)
                continue
            store.land(path, manifest)
            store.pages().clear()  # the extract was put together from them

    def load_input(self, context: dg.InputContext) -> LandedFile:
        """The current landed file."""
        store = landing_store(context.asset_key.path[-1])
        manifest = store.current()
        if manifest is None:
            raise dg.Failure(
                f"Nothing has been landed for {context.asset_key.to_user_string()}: materialize it first.",
                allow_retries=False,
            )
        return LandedFile(store, manifest)


class TableIOManager(dg.IOManager):
    """Publishes partitions to lake and warehouse; reads the partitions and columns that a step asks for.

    Runs of one partition and of many are treated alike: a step yields one `Publication` per table, with a `Part` for
    each of its partitions.
    """

    def __init__(self, tables: Mapping[dg.AssetKey, Table]) -> None:
        """`tables` gives the table of every asset that may be asked for."""
        self._tables = tables

    def handle_output(self, context: dg.OutputContext, obj: Sequence[Publication]) -> None:
        """Publish, and add the result to each partition's metadata."""
        results = publisher().publish(obj, context.run_id)
        own = results[obj[0].table.full_name]
        if context.has_asset_partitions:
            for published in own:
                context.step_context.add_asset_metadata(
                    partition_metadata(published), asset_key=context.asset_key, partition_key=published.key
                )
        elif len(own) == 1:
            context.add_output_metadata(published_metadata(own[0]))
        else:
            rows = sum(published.rows for published in own if published.changed)
            context.add_output_metadata({"rows_published": rows, **_address(obj[0].table)})

    def load_input(self, context: dg.InputContext) -> Loaded:
        """The input's partitions that belong to the run's partitions, or all of them."""
        wanted: dict[str, Any] = dict(context.definition_metadata)
        keys = _run_partitions(context) if wanted["by_partition"] else None
        return publisher().read(self._tables[context.asset_key], keys, wanted["columns"] or None)


def table_io(tables: Mapping[dg.AssetKey, Table]) -> dg.IOManagerDefinition:
    """A `TableIOManager` for a run, in which connections to the warehouse are kept."""

    @dg.io_manager  # pyrefly: ignore[no-matching-overload] # an IO manager that cleans up may yield, as resources may
    def of_a_run() -> Iterator[TableIOManager]:
        with connections.kept():
            yield TableIOManager(tables)

    return of_a_run


def _run_partitions(context: dg.InputContext) -> list[str]:
    """The partitions that the run makes; in Dagster the input may have none, though its table is cut that way."""
    step = context.step_context
    partitions = step.entity_partitions_def
    if partitions is None:
        raise dg.DagsterInvariantViolationError(f"{step.step.key} has no partitions")
    return list(partitions.get_partition_keys_in_range(step.partition_key_range))


def published_metadata(published: Published) -> dict[str, Any]:
    """A published partition as metadata of its materialization."""
    return {
        "dagster/row_count": published.rows,
        "changed": published.changed,
        "content_hash": published.content_hash,
        "lake": dg.MetadataValue.path(published.address),
        **({"bytes": published.size} if published.size is not None else {}),
        **(_changes(published.changes) if published.changes else {}),
    }


def partition_metadata(published: Published) -> dict[str, Any]:
    """The same for one of several partitions, whose rows Dagster has a name of its own for."""
    return published_metadata(published) | {"dagster/partition_row_count": published.rows}


def _changes(changes: Changes) -> dict[str, Any]:
    """What publishing a partition anew changed; the whole of it, with its history, is in `etl.changes`."""
    return {
        "rows_added": changes.added,
        "rows_gone": changes.gone,
        "rows_changed": changes.changed,
        "values_changed": dg.MetadataValue.json(changes.columns),
        "largest_change": dg.MetadataValue.json(changes.largest),
    }


def _address(table: Table) -> dict[str, Any]:
    return {"lake": dg.MetadataValue.path(lake().address(f"{table.stage}/{table.name}/"))}
