"""What Dagster loads: the datasets' assets and what starts their runs. Wiring only."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import warnings
from collections.abc import Sequence
from types import ModuleType

import dagster as dg

gc.disable()  # until everything is loaded, see below
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# Dagster stores the materializations of a run of many partitions together, instead of one by one.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "500")

from etl_assets import datasets  # noqa: E402 the warnings above are about what the datasets declare
from etl_assets.automation.alerts import alerts_sensor  # noqa: E402
from etl_assets.automation.freshness import schedules  # noqa: E402
from etl_assets.automation.housekeeping import housekeeping  # noqa: E402
from etl_assets.automation.sensors import automation_sensor, source_sensors  # noqa: E402
from etl_assets.stages.dataset import SPECS  # noqa: E402
from etl_assets.storage.io_managers import LandingIOManager, table_io  # noqa: E402


def definitions(modules: Sequence[ModuleType]) -> dg.Definitions:
    """The definitions of the datasets in some modules, which registered themselves when they were imported."""
    cleaning, nightly = housekeeping()
    tables = {spec.key: spec.table for spec in SPECS.values() if spec.table}
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules),
        resources={"landing_io": LandingIOManager(), "table_io": table_io(tables)},
        sensors=[*source_sensors(), automation_sensor(), alerts_sensor()],
        schedules=[*schedules(), nightly],
        jobs=[cleaning],
        # A step takes less time than starting a process for it; it is runs that are executed in parallel.
        executor=dg.in_process_executor,
    )


defs = definitions(
    [importlib.import_module(f"{datasets.__name__}.{m.name}") for m in pkgutil.iter_modules(datasets.__path__)]
)

# All of that stays. Searching it for cycles while it is loaded, in every run, and three times when the process ends
# takes a quarter of the time of a process that has little to do (measured).
gc.freeze()
gc.enable()
