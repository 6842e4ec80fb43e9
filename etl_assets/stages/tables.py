"""The refined and presentation stages: decorators that make an audited table's asset of a function.

Here: how such a stage is declared, and how its inputs reach the function. Not here: what happens to the frame that the
function returns (`table_step`).
"""

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import geopandas as gpd

from etl_assets.quality.contract import Contract, storage_table, ui_schema
from etl_assets.quality.quarantine import quarantine_table
from etl_assets.stages.asset import table_asset
from etl_assets.stages.dataset import SPECS, Dataset, Input, Spec, declare
from etl_assets.stages.newest import is_dated, newest_check
from etl_assets.stages.table_step import Frame, Result, TableStep
from etl_assets.storage.frames import to_geopandas
from etl_assets.storage.lake import Loaded
from etl_assets.storage.table import Partitioning, Table


@dataclass(frozen=True)
class Of:
    """An upstream asset of which only some columns are needed, or all partitions, whichever ones are being made."""

    asset: dg.AssetsDefinition
    columns: Sequence[str] | None = None
    all_partitions: bool = False


Upstream = dg.AssetsDefinition | Of
Decorator = Callable[[Callable[..., Frame | Result]], dg.AssetsDefinition]


def refined(dataset: Dataset, contract: type[Contract], **inputs: Upstream) -> Decorator:
    """Decorate a function that types, keys, corrects and deduplicates raw records.

    The input named `raw` is accounted for: every one of its rows is published, quarantined or merged. The function
    keeps the raw columns whose names begin with `_`.
    """
    return _stage(dataset, contract, inputs, is_refined=True, partitions=dataset.partitions)


def presentation(
    dataset: Dataset,
    contract: type[Contract],
    *,
    partitions: dg.TimeWindowPartitionsDefinition | None = None,
    **inputs: Upstream,
) -> Decorator:
    """Decorate a function that makes a table for its readers from refined tables.

    A parameter named `partitions` gets the keys of the partitions that are being made.
    """
    return _stage(dataset, contract, inputs, is_refined=False, partitions=partitions)


def _stage(
    dataset: Dataset,
    contract: type[Contract],
    inputs: Mapping[str, Upstream],
    *,
    is_refined: bool,
    partitions: dg.TimeWindowPartitionsDefinition | None,
) -> Decorator:
    table = storage_table(contract, with_source=is_refined)
    if partitions is not None and table.partitioning is None:
        raise TypeError(
            f"{table.full_name} is made partition by partition: say in its contract by which column it is cut into "
            "them (partitioning=Partitioning(…))"
        )
    upstream = {name: _input(given, table, partitions) for name, given in inputs.items()}
    quarantine = quarantine_table(table.name) if is_refined else None
    spec = declare(dataset, table, contract, upstream, partitions, quarantine)

    def decorate(function: Callable[..., Frame | Result]) -> dg.AssetsDefinition:
        kinds = typing.get_type_hints(function)
        wants_partitions = "partitions" in inspect.signature(function).parameters

        @table_asset(
            spec,
            list(_checks(spec)),
            metadata={"dagster/column_schema": ui_schema(contract)},
            ins={
                name: dg.AssetIn(
                    source.key,
                    input_manager_key="table_io",
                    metadata={"columns": list(source.columns or []), "by_partition": source.by_partition},
                )
                for name, source in upstream.items()
            },
        )
        def step(context: dg.AssetExecutionContext, **loaded: Loaded) -> Iterator[Any]:
            frames: dict[str, Any] = {
                name: _as(kinds.get(name), upstream[name], given) for name, given in loaded.items()
            }
            if wants_partitions:
                frames["partitions"] = list(context.partition_keys)
            result = function(**frames)
            result = result if isinstance(result, Result) else Result(result)
            raw = loaded["raw"].frame if is_refined else None
            versions = {name: given.versions for name, given in loaded.items()}
            yield from TableStep(context, spec, contract, result, raw, versions).events()

        return step

    return decorate


def _input(given: Upstream, table: Table, partitions: dg.TimeWindowPartitionsDefinition | None) -> Input:
    """An upstream as the stage reads it; raises TypeError for one that is cut into other partitions than the stage."""
    of = given if isinstance(given, Of) else Of(given)
    source = SPECS[of.asset.key]
    cut = source.table.partitioning if source.table else None
    by_partition = partitions is not None and cut is not None and not of.all_partitions
    if by_partition and cut and table.partitioning and _window(cut) not in ("value", _window(table.partitioning)):
        raise TypeError(
            f"{table.full_name} is partitioned by {table.partitioning.every}, but its input "
            f"{source.key.to_user_string()} by {cut.every}: a partition would be made only from the one with the same "
            "key. Use Of(…, all_partitions=True)."
        )
    return Input(source.key, source.table, by_partition, tuple(of.columns) if of.columns else None)


def _window(partitioning: Partitioning) -> str:
    return partitioning.every.removesuffix("_number")  # a year is a year, whether a date or a number


def _checks(spec: Spec) -> Iterator[dg.AssetCheckSpec]:
    """The stage's checks.

    Only the contract is judged per partition: each evaluation is an event in Dagster's database, and three of them for
    each of a thousand days take longer than the days' data.
    """
    yield dg.AssetCheckSpec(
        "contract",
        asset=spec.key,
        blocking=True,
        description="Rows keep the contract; those that do not are few enough to be quarantined",
        partitions_def=spec.partitions,
    )
    if spec.quarantine is not None:
        yield dg.AssetCheckSpec("balance", asset=spec.key, description="Rows in = rows out + quarantined + merged")
    before = "in the partitions before it, and at least half as many as last time" if spec.partitions else "last time"
    yield dg.AssetCheckSpec("volume", asset=spec.key, description=f"About as many rows as {before}")
    if is_dated(spec):
        yield newest_check(spec)


def _as(kind: Any, source: Input, loaded: Loaded) -> Frame:
    if inspect.isclass(kind) and issubclass(kind, gpd.GeoDataFrame):
        assert source.table is not None
        return to_geopandas(source.table, loaded.frame)
    return loaded.frame
