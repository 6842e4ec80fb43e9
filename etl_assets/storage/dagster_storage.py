"""Dagster's own storage, and what its steps print: one dagster.yaml for a fresh clone and for a deployment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
)
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.compute_log_manager import ComputeLogManager
from dagster._core.storage.event_log import EventLogStorage, SqlEventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy import tuple_
from sqlalchemy.exc import OperationalError

from etl_assets.logs import plain
from etl_assets.settings import dagster_home, database_parts, explicit_settings, settings

#: Events that Dagster stores elsewhere, too, and not only in its log.
_INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS
_MADE = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION}
_STATEMENT_MS = 600_000
_UPLOAD_SECONDS = 30
_at_a_terminal: list[bool] = []


class _Configured(ConfigurableClass):
    """A class that dagster.yaml names but does not configure: `settings` does."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing."""
        return {}


class ConfiguredStorage(DagsterStorage, _Configured):
    """PostgreSQL if `ETL_DAGSTER_STORAGE_URL` or the embedded default names one, else SQLite."""

    @classmethod
    def from_config_value(  # pyrefly: ignore[bad-override] # it returns one of the two storages, not itself
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """The storage that is configured now."""
        url = settings().dagster_storage_url
        if url is None:
            return DagsterSqliteStorage(base_dir=str(dagster_home()), inst_data=inst_data)
        # SQLAlchemy takes a bare postgresql:// for psycopg 3, and dagster-postgres needs psycopg 2.
        address = "postgresql+psycopg2://" + url.get_secret_value().split("://", 1)[1]
        storage = DagsterPostgresStorage(address, should_autocreate_tables=True, inst_data=inst_data)
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            # Keep a connection, as the webserver does for itself. Otherwise every event that a step writes opens
            # two or three new ones, which is four fifths of the time of a run of many partitions (measured).
            part.optimize_for_webserver(statement_timeout=_STATEMENT_MS, pool_recycle=3600, max_overflow=20)
        quicken(storage.event_log_storage, storage.run_storage)
        return storage


def quicken(events: EventLogStorage[Any], runs: RunStorage[Any]) -> None:
    """Make Dagster's storage, which has to be SQL, query its database less often."""
    _remember_schema(events, runs)
    _write_together(events)


def _remember_schema(events: EventLogStorage[Any], runs: RunStorage[Any]) -> None:
    """Make Dagster's storage look only once which tables and columns it has.

    By itself it looks with every asset event, and several times a run, in case they are those of an older Dagster: a
    seventh of a small run (measured).
    """
    for name in ("has_table", "has_asset_key_col", "_has_asset_key_col_on_connection"):
        setattr(events, name, _remembered(getattr(events, name)))
    for name in ("has_run_stats_index_cols", "has_backfill_id_column"):
        setattr(runs, name, _remembered(getattr(runs, name)))


def _remembered(look: Callable[..., bool]) -> Callable[..., bool]:
    """Remember what is there, since it stays; look again for what is missing, since it may still come."""
    there = set[str]()

    def has(*asked: Any) -> bool:
        name = str(asked[-1:])  # before it there may be a connection
        if name not in there and look(*asked):
            there.add(name)
        return name in there

    return has


def _write_together(log: EventLogStorage[Any]) -> None:
    """Make the storage write a run's events about partitions together: what is planned, made, and found by checks.

    It writes most of them one by one: a third of a run of 365 partitions (measured). What checks found waits for the
    next event of the run, which follows at once: the end of the checks' step.
    """
    assert isinstance(log, SqlEventLogStorage)
    one, one_by_one = log.store_event, log.store_event_batch
    waiting: dict[str, list[dg.EventLogEntry]] = {}

    def store(event: dg.EventLogEntry) -> None:
        if event.run_id and _is_of_one_partition(event):
            waiting.setdefault(event.run_id, []).append(event)
            return
        _write_evaluations(log, waiting.pop(event.run_id, []))
        if event.dagster_event_type in _INDEXED:
            one(event)
        else:  # `one` would also notify listeners on the connection: there are none, since readers poll
            _insert(log, [event])

    def store_batch(events: Sequence[dg.EventLogEntry]) -> None:
        made: dict[tuple[dg.AssetKey, dg.DagsterEventType], list[dg.EventLogEntry]] = {}
        checked, others = [], []
        for event in events:
            told = event.get_dagster_event()
            if told.asset_key and told.event_type in _MADE:
                made.setdefault((told.asset_key, told.event_type), []).append(event)
            elif told.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
                checked.append(event)
            else:
                others.append(event)
        for of_asset in made.values():
            ids = _insert(log, of_asset)
            with log.index_transaction() as connection:
                log._store_asset_event_tags(connection, of_asset, ids)
                log._store_asset_event(connection, of_asset[-1], ids[-1])
        _write_planned_checks(log, checked)
        if others:
            one_by_one(others)

    log.store_event = store  # pyrefly: ignore[method-assign]
    log.store_event_batch = store_batch  # pyrefly: ignore[method-assign]


def _is_of_one_partition(event: dg.EventLogEntry) -> bool:
    """Whether an event is what a check found about a single partition."""
    told = event.dagster_event
    if told is None or told.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return False
    return told.asset_check_evaluation_data.partition is not None


def _insert(log: SqlEventLogStorage, events: Sequence[dg.EventLogEntry]) -> list[int]:
    """Write events into the log and nowhere else; return their ids there."""
    table = SqlEventLogStorageTable
    statement = table.insert().returning(table.c.id, sort_by_parameter_order=True)
    with log.run_connection(events[0].run_id) as connection:
        return list(connection.execute(statement, [log._event_to_row(event) for event in events]).scalars())


def _write_planned_checks(log: SqlEventLogStorage, events: Sequence[dg.EventLogEntry]) -> None:
    """Write which checks a run is going to evaluate, for which partitions."""
    if not events:
        return
    rows = []
    for event, number in zip(events, _insert(log, events), strict=True):
        planned = event.get_dagster_event().asset_check_planned_data
        row = _execution(event, number, planned, AssetCheckExecutionRecordStatus.PLANNED)
        of = planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        rows += [{**row, "partition": partition} for partition in of]
    with log.index_transaction() as connection:
        connection.execute(AssetCheckExecutionsTable.insert(), rows)


def _write_evaluations(log: SqlEventLogStorage, events: Sequence[dg.EventLogEntry]) -> None:
    """Write what checks found; each result replaces the record that the check was planned."""
    if not events:
        return
    table, rows = AssetCheckExecutionsTable, []
    for event, number in zip(events, _insert(log, events), strict=True):
        found = event.get_dagster_event().asset_check_evaluation_data
        status = AssetCheckExecutionRecordStatus.SUCCEEDED if found.passed else AssetCheckExecutionRecordStatus.FAILED
        of = found.target_materialization_data
        row = _execution(event, number, found, status)
        rows.append({**row, "partition": found.partition, "materialization_event_storage_id": of and of.storage_id})
    key = [table.c[name] for name in ("run_id", "asset_key", "check_name", "partition")]
    told = [tuple(row[column.name] for column in key) for row in rows]
    with log.index_transaction() as connection:
        connection.execute(table.delete().where(tuple_(*key).in_(told)))
        connection.execute(table.insert(), rows)


def _execution(
    event: dg.EventLogEntry,
    number: int,
    of: AssetCheckEvaluation | AssetCheckEvaluationPlanned,
    status: AssetCheckExecutionRecordStatus,
) -> dict[str, Any]:
    """What Dagster records about a check's execution, beside the event itself."""
    return {
        "asset_key": of.asset_key.to_string(),
        "check_name": of.check_name,
        "run_id": event.run_id,
        "execution_status": status.value,
        "evaluation_event": serialize_value(event),
        "evaluation_event_timestamp": datetime.fromtimestamp(event.timestamp, UTC).replace(tzinfo=None),
        "evaluation_event_storage_id": number,
    }


class ConfiguredComputeLogs(ComputeLogManager, _Configured):
    """What steps print: in the lake (`dagster_logs/`) if that is on S3, where every machine sees it, else a folder."""

    @classmethod
    def from_config_value(  # pyrefly: ignore[bad-override] # it returns one of the two managers, not itself
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ComputeLogManager:
        """The manager that is configured now."""
        if _at_a_terminal:
            return NoOpComputeLogManager()
        folder, lake = str(dagster_home() / "storage"), urlsplit(settings().lake_url)
        if lake.scheme != "s3":
            return LocalComputeLogManager(folder, inst_data=inst_data)
        return S3ComputeLogManager(
            bucket=lake.netloc,
            prefix=f"{lake.path.strip('/')}/dagster_logs".strip("/"),
            local_dir=folder,
            skip_empty_files=True,
            upload_interval=_UPLOAD_SECONDS,  # so that the output of a killed run is there, too
            inst_data=inst_data,
        )


@contextmanager
def at_a_terminal() -> Generator[None]:
    """Let this process's steps print where the process itself prints, in instances that are made within the block.

    To have their output in a file as well, Dagster starts four processes for each run, two of them Python.
    """
    _at_a_terminal.append(True)
    try:
        yield
    finally:
        _at_a_terminal.pop()


@contextmanager
def dagster_instance() -> Generator[dg.DagsterInstance]:
    """The configured instance of Dagster.

    Raises RuntimeError, with what to do, if it cannot be opened, or if its storage goes away while the block runs.
    """
    try:
        opened = dg.DagsterInstance.get()
    except dg.DagsterError as error:
        raise RuntimeError(f"Dagster cannot be opened: {plain(str(error))}") from error
    except (OperationalError, DagsterPostgresException) as error:
        raise _unreachable(error) from error
    try:
        with opened as instance:
            yield instance
    except (OperationalError, DagsterPostgresException) as error:  # the latter once it has tried to connect again
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> RuntimeError:
    why = str(getattr(error, "orig", error)).partition("\n")[0]
    return RuntimeError(
        f"Dagster's own storage{_place()} cannot be reached ({plain(why)}). What is published is safe. Check that its "
        "PostgreSQL is running (`./dev doctor`), and run again: what was interrupted is made again."
    )


def _place() -> str:
    """Where Dagster's own storage is, and who says so; without its password."""
    url = settings().dagster_storage_url
    parts = url and database_parts(url.get_secret_value())
    if not parts:
        return ""
    named = " (set in ETL_DAGSTER_STORAGE_URL)" if explicit_settings().dagster_storage_url else ""
    return f" at {parts.get('host')}:{parts.get('port') or 5432}/{parts.get('dbname')}{named}"
