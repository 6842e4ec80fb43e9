"""Sensors: each looks at one source, cheaply, and starts the runs that follow from what it sees."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from etl_assets.sources import SourceError, Validators
from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.storage.configured import landing_store

_INTERVAL = 30


def source_sensors() -> Iterator[dg.SensorDefinition]:
    """One sensor per landed file: a conditional request, and a run that lands and reads what is new."""
    for spec in list(SPECS.values()):
        if spec.source is not None:
            yield _file_sensor(spec)


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the assets' automation conditions; ours is our own, so it runs in the code server."""
    return dg.AutomationConditionSensorDefinition(
        "downstream",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=_INTERVAL,
        use_user_code_server=True,
    )


def _file_sensor(spec: Spec) -> dg.SensorDefinition:
    source, name = spec.source, spec.key.path[-1]
    assert source is not None
    readers = [other.key for other in SPECS.values() if any(i.key == spec.key for i in other.inputs.values())]

    @dg.sensor(
        name=f"{name}_source",
        target=dg.AssetSelection.assets(spec.key, *readers),
        minimum_interval_seconds=_INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks the source of {spec.dataset.title} for another version than the landed one.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        known = landing_store(name).current()
        try:
            version = source.probe(Validators(known.etag, known.last_modified) if known else None)
        except SourceError as error:
            return dg.SkipReason(f"The source cannot be asked: {error}")
        if version is None:
            return dg.SkipReason(
                f"Nothing new: the landed file of {known.published_at if known else '-'} is the newest"
            )
        if version == context.cursor:
            return dg.SkipReason(f"Version {version} has been asked for already; see its run")
        return dg.SensorResult([dg.RunRequest(run_key=f"{name}:{version}")], cursor=version)

    return look
