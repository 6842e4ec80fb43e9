"""Housekeeping: what would grow for ever is deleted at a certain age; what the newest state needs is never touched.

It deletes the steps' messages in Dagster's event log and their output (`ETL_KEEP_LOGS_DAYS`), superseded landed files
(`ETL_KEEP_LANDED_DAYS`), and what a killed write has left in a lake that is a folder. It does not delete runs or their
asset events: a partition whose run is deleted counts as never made. Ticks are left to the daemon (`retention` in
dagster.yaml).
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import sqlalchemy
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from etl_assets.settings import settings
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.raw import made_from_file
from etl_assets.storage.configured import lake, landing_store
from etl_assets.storage.landing import Manifest

#: A write takes less than this: an unfinished file that is older will never be finished.
_UNFINISHED = timedelta(days=1)


@dataclass(frozen=True)
class Superfluous:
    """Things of one kind that are past their retention."""

    what: str
    count: int


def housekeeping() -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """The job, and its schedule: every night, at an hour at which no source is landed anew."""

    @dg.op
    def clean_up(context: dg.OpExecutionContext) -> None:
        for found in clean(context.instance, dry_run=False):
            context.log.info(f"deleted {found.count} {found.what}")

    @dg.job(name="housekeeping", description="Deletes what is past its retention; ./dev clean --dry-run lists it.")
    def job() -> None:
        clean_up()

    schedule = dg.ScheduleDefinition(
        job=job,
        description="Every night, deletes what is past its retention.",
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return job, schedule


def clean(instance: dg.DagsterInstance, *, dry_run: bool, now: datetime | None = None) -> list[Superfluous]:
    """Delete what is past its retention; return what that was, or with `dry_run` what it would be."""
    now = now or datetime.now(UTC)
    logs_since = now - timedelta(days=settings().keep_logs_days)
    landed_since = now - timedelta(days=settings().keep_landed_days)
    return [
        Superfluous("messages of steps in the event log", _events(instance, logs_since, dry_run=dry_run)),
        Superfluous("folders of steps' output", _compute_logs(instance, logs_since, dry_run=dry_run)),
        Superfluous("objects of superseded landed files", _landed(instance, landed_since, dry_run=dry_run)),
        Superfluous("unfinished files in the lake", _unfinished(now - _UNFINISHED, dry_run=dry_run)),
    ]


def _events(instance: dg.DagsterInstance, since: datetime, *, dry_run: bool) -> int:
    """Events on which no asset, no run's outcome and no failure's reason depends."""
    log = instance.event_log_storage
    if not isinstance(log, SqlEventLogStorage) or isinstance(log, SqliteEventLogStorage):
        return 0  # SQLite has a file for each run
    kind = SqlEventLogStorageTable.c.dagster_event_type
    kept = sqlalchemy.or_(
        *(kind.like(f"{name}\\_%", escape="\\") for name in ("ASSET", "FRESHNESS", "PIPELINE")), kind == "STEP_FAILURE"
    )
    old = sqlalchemy.and_(
        SqlEventLogStorageTable.c.timestamp < since.replace(tzinfo=None),  # Dagster stores it in UTC
        sqlalchemy.or_(kind.is_(None), sqlalchemy.not_(kept)),
    )
    with log.index_transaction() as connection:
        if dry_run:
            count = sqlalchemy.select(sqlalchemy.func.count()).select_from(SqlEventLogStorageTable).where(old)
            return connection.execute(count).scalar_one()
        return connection.execute(sqlalchemy.delete(SqlEventLogStorageTable).where(old)).rowcount


def _compute_logs(instance: dg.DagsterInstance, since: datetime, *, dry_run: bool) -> int:
    """What steps wrote to their terminal; in S3, a lifecycle rule of the bucket deletes it."""
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return 0
    base = Path(manager.get_captured_local_path(["run"], "out")).parent
    old = [folder for folder in base.glob("*/compute_logs") if folder.stat().st_mtime < since.timestamp()]
    for folder in old if not dry_run else ():
        shutil.rmtree(folder.parent if len(list(folder.parent.iterdir())) == 1 else folder)
    return len(old)


def _landed(instance: dg.DagsterInstance, since: datetime, *, dry_run: bool) -> int:
    """Landed files, with their manifests, that were superseded before `since`.

    Never the current one, nor the one that the raw table was made from. For a source of many files, their sets are
    judged: a file goes with the last set that contains it.
    """
    needed = {made_from_file(instance, key) for key in SPECS if key.path[0] == "raw"}
    count = 0
    for spec in SPECS.values():
        if spec.source is None:
            continue
        store = landing_store(spec.key.path[-1])
        if (current := store.current()) is None:
            continue
        landed = list(store.manifests())
        judged = [own for own in landed if own.sha256 != current.sha256 and bool(own.members) == bool(current.members)]
        # The current one came last, whenever its bytes first came: a source may go back to a former file.
        in_time = [*sorted(judged, key=lambda own: own.fetched_at), current]
        gone = [own for own, next_one in pairwise(in_time) if _came(next_one) < since and own.sha256 not in needed]
        if current.members:
            held = {digest for own in in_time if own not in gone for digest in own.members.values()}
            gone += [own for own in landed if not own.members and own.sha256 not in held and _came(own) < since]
        for own in gone:
            count += 1 if own.members else 2
            if not dry_run:
                store.forget(own)
    return count


def _came(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.fetched_at)


def _unfinished(since: datetime, *, dry_run: bool) -> int:
    """Files that obstore writes beside an object before renaming them to it; S3 has no such thing."""
    folder = lake().folder
    if folder is None:
        return 0
    old = list(_staged(folder, since))
    for path in old if not dry_run else ():
        path.unlink(missing_ok=True)
    return len(old)


def _staged(folder: Path, since: datetime) -> Iterator[Path]:
    for path in folder.rglob("*#*"):
        if path.name.rpartition("#")[2].isdigit() and path.stat().st_mtime < since.timestamp():
            yield path
