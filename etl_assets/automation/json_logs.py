"""Logs for machines: with `ETL_LOG_FORMAT=json`, one JSON object per line on stdout; dagster.yaml adds the handler.

A line has `time`, `level`, `message`, and where they are known `run`, `job`, `dataset`, `stage`, `asset`, `partition`
(for a run of many: the first and the last), `event`, `rows`, `seconds` and `error`. Each event is one line: an asset's
publication has `rows`, the end of its step has `seconds`. Dagster's own lines, for people, stay on stderr.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from etl_assets.logs import plain
from etl_assets.settings import settings
from etl_assets.stages.dataset import spec_of_step
from etl_assets.stages.failures import why_step_failed
from etl_assets.stages.run_tags import RunPartitions

#: Dagster's events that get a line each, though Dagster treats them as details.
_LINES = {
    dg.DagsterEventType.RUN_START,
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


class JsonLines(logging.Formatter):
    """One JSON object per line, without secrets, and without characters that a terminal would act on."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets = settings().secrets()

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        fields = {
            # Before it becomes JSON, where a secret with a quote in it is written differently.
            key: plain(value, secrets=self._secrets) if isinstance(value, str) else value
            for key, value in _fields(record).items()
            if value is not None
        }
        return json.dumps(fields, ensure_ascii=False, default=str)


class JsonHandler(logging.StreamHandler):
    """The handler that dagster.yaml adds to the logs of every run; silent unless the format is JSON."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._is_on = settings().log_format == "json"
        self.setFormatter(JsonLines())

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is worth a line."""
        return self._is_on and (record.levelno >= logging.INFO or _is_line(record))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    meta: dict[str, Any] = getattr(record, "dagster_meta", None) or {}
    event: dg.DagsterEvent | None = meta.get("dagster_event")
    tags = meta.get("job_tags") or {}
    spec = spec_of_step(meta.get("step_key"))
    partitions = RunPartitions.of_tags(tags)
    partition = event.partition if event and event.partition else partitions and str(partitions)
    error = why_step_failed(event) if event and event.is_step_failure else None
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": logging.getLevelName(max(record.levelno, logging.INFO)).lower(),
        "message": meta.get("orig_message") or record.getMessage(),
        "run": meta.get("run_id"),
        "job": meta.get("job_name"),
        "dataset": spec.dataset.name if spec else None,
        "stage": spec.key.path[0] if spec else None,
        "asset": spec.key.to_user_string() if spec else None,
        "partition": partition,
        "event": event.event_type_value if event else None,
        "rows": _rows(event),
        "seconds": round(event.step_success_data.duration_ms / 1000, 3) if event and event.is_step_success else None,
        "error": error,
    }


def _is_line(record: logging.LogRecord) -> bool:
    event: dg.DagsterEvent | None = (getattr(record, "dagster_meta", None) or {}).get("dagster_event")
    return event is not None and event.event_type in _LINES


def _rows(event: dg.DagsterEvent | None) -> int | None:
    if event is None or event.event_type != dg.DagsterEventType.ASSET_MATERIALIZATION:
        return None
    metadata = event.step_materialization_data.materialization.metadata
    found = metadata.get("dagster/partition_row_count") or metadata.get("dagster/row_count")
    return int(str(found.value)) if found is not None else None
