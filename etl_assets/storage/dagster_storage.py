"""Dagster's own storage, and what its steps print: one dagster.yaml for a fresh clone and for a deployment.

Here: the classes that dagster.yaml names, and opening the instance, with errors for the person who reads them.
Not here: how that storage writes (quick_events.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.compute_log_manager import ComputeLogManager
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from etl_assets.logs import plain
from etl_assets.settings import dagster_home, database_parts, explicit_settings, settings
from etl_assets.storage.quick_events import quicken

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
