"""Runs in this process: of assets, and of any number of their partitions, with or without gaps between them.

To Dagster, a run of many partitions covers all of them from the first to the last. But the days that a corrected
publication changes lie scattered, and a separate run for each of seven takes five times as long as one run for all
(measured). So the job of a run of partitions has a calendar of its own, of just these partitions. It also has just the
assets of the run: a job that is cut out of the graph of all assets takes a tenth of a second longer to describe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.execute_in_process import core_execute_in_process

from etl_assets.stages.dataset import numbered
from etl_assets.stages.run_tags import RunPartitions


def execute(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: Collection[dg.AssetKey],
    tags: Mapping[str, str],
    *,
    partitions: Sequence[str] = (),
    run_id: str | None = None,
    raise_on_error: bool = False,
) -> dg.ExecuteInProcessResult:
    """Make assets in a run in this process; for partitioned assets, the given partitions, which are in order.

    This is `JobDefinition.execute_in_process` with a job of our own.
    """
    chosen = frozenset(assets)
    if partitions:
        tags = {**tags, **_partition_tags(definitions, chosen, partitions)}
    return core_execute_in_process(
        job=InMemoryJob(_job(definitions, chosen, partitions)),
        asset_selection=chosen,
        instance=instance,
        run_tags=tags,
        raise_on_error=raise_on_error,
        run_id=run_id,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        output_capturing_enabled=False,
    )


def _job(definitions: dg.Definitions, assets: Collection[dg.AssetKey], partitions: Sequence[str]) -> dg.JobDefinition:
    """A job of just these assets and partitions; it knows what they are made from without making it."""
    calendar = dg.StaticPartitionsDefinition(partitions) if partitions else None
    made = {key: definitions.get_assets_def(key) for key in assets}
    is_cut = any(asset.partitions_def for asset in made.values())

    def known(key: dg.AssetKey) -> dg.AssetSpec:
        its = definitions.get_assets_def(key).get_asset_spec(key).partitions_def
        if its and not is_cut and not _is_short(its):
            its = None
        return dg.AssetSpec(key, partitions_def=its and (calendar or its))

    sources = {key for asset in made.values() for key in asset.dependency_keys} - made.keys()
    own = (_with(calendar, asset) if calendar else asset for asset in made.values())
    small = dg.Definitions([*own, *map(known, sources)], resources=definitions.resources)
    return small.resolve_implicit_global_asset_job_def().as_ephemeral_job(resource_defs={}, input_values={})


def _is_short(calendar: dg.PartitionsDefinition) -> bool:
    """Whether Dagster looks at every upstream partition when it makes an asset without partitions.

    For a longer calendar Dagster takes a tenth of a second to list all days, only to find that it does not look.
    """
    assert isinstance(calendar, dg.TimeWindowPartitionsDefinition)
    return len(numbered(calendar)) < SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD


def _with(calendar: dg.PartitionsDefinition, asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset and its checks with another calendar, which `AssetsDefinition.with_attributes` cannot change."""
    checks = asset.node_check_specs_by_output_name.items()
    calendars: dict[str, Any] = {
        "specs": [spec.replace_attributes(partitions_def=calendar) for spec in asset.specs],
        "check_specs_by_output_name": {
            name: check._replace(partitions_def=calendar) if check.partitions_def else check for name, check in checks
        },
    }
    return dg.AssetsDefinition.dagster_internal_init(**asset.get_attributes_dict() | calendars)


def _partition_tags(
    definitions: dg.Definitions, assets: Collection[dg.AssetKey], partitions: Sequence[str]
) -> Mapping[str, str]:
    """The tags for a run of these partitions, which belong to the calendar of the assets."""
    calendar = definitions.get_assets_def(next(iter(assets))).partitions_def
    assert isinstance(calendar, dg.TimeWindowPartitionsDefinition)
    position = numbered(calendar)
    first, last = partitions[0], partitions[-1]
    gaps = position[last] - position[first] >= len(partitions)
    return RunPartitions(first, last, len(partitions) if gaps else None).tags
