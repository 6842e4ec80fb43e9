"""A table's asset as Dagster and its UI see it: what every stage from raw to presentation has in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from etl_assets.stages.conditions import when_out_of_date
from etl_assets.stages.dataset import Spec


def table_asset(
    spec: Spec,
    checks: Sequence[dg.AssetCheckSpec],
    *,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    ins: Mapping[str, dg.AssetIn] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorate the step that makes a table: it becomes an asset that is made when it is out of date.

    With `ins`, Dagster loads these inputs and the IO manager takes the publications (none if nothing was good).
    Without, the step reads and publishes by itself. `description` defaults to the table's.
    """
    loaded = {source.key for source in ins.values()} if ins else set()
    return dg.asset(
        key=spec.key,
        group_name=spec.dataset.name,
        description=description or spec.own_table.description,
        metadata={**spec.dataset.metadata(), "dagster/table_name": spec.own_table.full_name, **(metadata or {})},
        owners=[spec.dataset.owner],
        kinds={"parquet", "postgres"},
        ins=ins,
        # Tables that foreign keys refer to are published before; they are not read.
        deps=spec.waits_for - loaded,
        io_manager_key="table_io" if ins else None,
        output_required=not ins,
        check_specs=checks,
        partitions_def=spec.partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(spec.dataset.batch) if spec.partitions else None,
        automation_condition=when_out_of_date(),
        code_version=spec.code_version,
    )
