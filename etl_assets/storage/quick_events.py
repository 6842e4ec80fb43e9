"""Dagster's own storage, made to query its database less often: the same rows, in fewer statements.

Here: all that is done to Dagster's storage beyond its interface, to be looked at with each new version of Dagster.
Not here: which storage that is (dagster_storage.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
)
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import EventLogStorage, SqlEventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.runs import RunStorage
from dagster._serdes import serialize_value
from sqlalchemy import tuple_

#: Events that Dagster stores elsewhere, too, and not only in its log.
_INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS
_MADE = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION}


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
