"""Dagster's own storage in PostgreSQL: what a run of many partitions asks of it."""

import uuid
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from etl_assets.local.postgres import Cluster
from etl_assets.settings import PROJECT

DAYS = dg.DailyPartitionsDefinition("2025-01-01", end_date="2025-03-01")
EVALUATED = dg.DagsterEventType.ASSET_CHECK_EVALUATION
BAD = "2025-01-07"
MANY = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def first() -> None:
    """One of two assets that a run makes."""


@dg.asset(
    partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[first], output_required=False,
    check_specs=[dg.AssetCheckSpec("good", asset="second", partitions_def=DAYS)],
)  # fmt: skip
def second(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """The other one, with a check of each partition, which one does not pass."""
    yield dg.MaterializeResult()
    for day in context.partition_keys:
        yield dg.AssetCheckEvaluation(second.key, "good", day != BAD, {"day": day}, partition=day)
    yield dg.Output(None, output_name="second_good")


@dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="whole")])
def whole() -> dg.MaterializeResult:
    """Has no partitions, and a check."""
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="sound")])


@pytest.fixture
def instance(cluster: Cluster, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    name = f"dagster_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("ETL_DAGSTER_STORAGE_URL", cluster.create_database(name))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
    (tmp_path / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made
    cluster.drop_database(name)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that SQLAlchemy runs meanwhile."""
    seen: list[str] = []

    def take(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", take)
    yield seen
    event.remove(Engine, "before_cursor_execute", take)


def test_a_run_of_many_partitions(instance: dg.DagsterInstance, statements: list[str]) -> None:
    """All that it plans and makes is on record, written together, and the storage knows its own tables by then."""
    job = dg.Definitions(assets=[first, second]).resolve_implicit_global_asset_job_def()
    runs = []
    for span in (("2025-01-01", "2025-01-31"), ("2025-02-01", "2025-02-20")):
        statements.clear()
        runs.append(job.execute_in_process(instance=instance, tags=dict(zip(MANY, span, strict=True))))
        assert runs[-1].success
    written = [text for text in statements if text.startswith("INSERT INTO event_logs")]
    assert len(written) < 30  # of each of 20 partitions five events are written
    assert not [text for text in statements if "pg_catalog.pg_attribute" in text]
    planned, every = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, DAYS.get_partition_keys()
    for key in (first.key, second.key):
        told = [
            entry.dagster_event.partition
            for run in runs
            for entry in instance.all_logs(run.run_id, of_type=planned)
            if entry.dagster_event and entry.dagster_event.asset_key == key
        ]
        assert sorted(map(str, told)) == every[:51]
        assert instance.get_materialized_partitions(key) == set(every[:51])
        (record,) = instance.get_asset_records([key])
        assert record.asset_entry.last_run_id == runs[-1].run_id
        log = instance.event_log_storage
        assert not log.get_latest_asset_partition_materialization_attempts_without_materializations(key)
    good = dg.AssetCheckKey(second.key, "good")
    assert statuses(instance, good) == {day: "FAILED" if day == BAD else "SUCCEEDED" for day in every[:51]}
    logged = [entry.get_dagster_event() for run in runs for entry in instance.all_logs(run.run_id, of_type=EVALUATED)]
    assert [event.asset_check_evaluation_data.partition for event in logged] == every[:51]


def test_what_a_run_is_going_to_check_is_on_record_before(instance: dg.DagsterInstance) -> None:
    job = dg.Definitions(assets=[first, second]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags=dict(zip(MANY, ("2025-01-01", "2025-01-31"), strict=True)))
    good = dg.AssetCheckKey(second.key, "good")
    assert statuses(instance, good) == dict.fromkeys(DAYS.get_partition_keys()[:31], "PLANNED")
    assert len(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)) == 1

    job, sound = dg.Definitions(assets=[whole]).resolve_implicit_global_asset_job_def(), whole.check_keys
    run = instance.create_run_for_job(job)
    assert [statuses(instance, key) for key in sound] == [{None: "PLANNED"}]
    assert job.execute_in_process(instance=instance).success
    assert [statuses(instance, key) for key in sound] == [{None: "SUCCEEDED"}]


def statuses(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> dict[str | None, str]:
    """What is on record of a check, by partition; of each the newest."""
    records = instance.event_log_storage.get_asset_check_execution_history(check, limit=1000)
    return {record.partition: record.status.value for record in reversed(records)}
