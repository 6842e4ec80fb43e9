"""`./dev doctor`: look at everything that the project stands on, and say what is wrong and how to mend it.

It starts the embedded default where that is wanted and not running, and changes nothing else: what it writes to the
lake, it deletes again.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from etl_assets.automation.problems import problems
from etl_assets.automation.receivers import receivers
from etl_assets.local import embedded
from etl_assets.logs import plain
from etl_assets.settings import PROJECT, NotConfiguredError, dagster_home, home, settings
from etl_assets.sources import SourceError, http
from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.storage import roles
from etl_assets.storage.configured import lake, landing_store, warehouse
from etl_assets.storage.dagster_storage import dagster_instance

_FREE_BYTES = 2 << 30
_SKEW_SECONDS = 60
_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    """What was found about one thing; `mend` says what to do if it is wrong, or what could be better (a note)."""

    about: str
    said: str
    mend: str = ""
    is_wrong: bool = False

    @property
    def state(self) -> str:
        """`ok`, `note` or `wrong`."""
        if self.is_wrong:
            return "wrong"
        return "note" if self.mend else "ok"


def doctor() -> int:
    """Print what is found; 0 if nothing is wrong."""
    import etl_assets.definitions  # noqa: F401 the datasets register themselves

    found = [finding for examine in EXAMINATIONS for finding in _examined(examine)]
    console = Console(soft_wrap=not sys.stdout.isatty())
    if console.is_terminal:
        console.print(_table(found))
    else:
        for item in found:
            console.print(_line(item))
    wrong = sum(item.is_wrong for item in found)
    console.print(f"Wrong: {wrong} of {len(found)} things examined." if wrong else "Nothing is wrong.")
    return 1 if wrong else 0


def _table(found: Sequence[Finding]) -> RichTable:
    table = RichTable(box=None, header_style="bold", pad_edge=False)
    for name in ("", "what", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for item in found:
        # Plain text: a source's answer, a path or a server's message is shown, never obeyed.
        cells = (Text(plain(text)) for text in (item.about, item.said, item.mend))
        table.add_row(Text(item.state, _COLOURS[item.state]), *cells)
    return table


def _line(item: Finding) -> Text:
    told = f"{item.said.removesuffix('.')}. {item.mend}" if item.mend else item.said
    return Text(plain(f"{item.state:5} {item.about}: {' '.join(told.split())}"))


# --- examinations


def _examined(examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what an examination finds; one that fails is itself a finding, and does not prevent the others."""
    try:
        yield from examine()
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are to be seen too
        yield Finding((examine.__doc__ or "").rstrip("."), str(error), is_wrong=True)


def _python() -> Iterator[Finding]:
    """Python and its packages."""
    yield Finding("Python", platform.python_version())  # ./dev refuses one that does not serve
    lock = (PROJECT / "requirements.txt").read_text()
    others = []
    for line in re.findall(r"^(\S+==[^\\\n]*)", lock, re.MULTILINE):
        pinned = Requirement(line.strip())
        if pinned.marker and not pinned.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(pinned.name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if not pinned.specifier.contains(installed if installed != "missing" else "0", prereleases=True):
            others.append(f"{pinned.name} is {installed}, the lock says {pinned.specifier}")
    mend = "Delete .venv and call ./dev again: it installs what requirements.txt names." if others else ""
    yield Finding("packages", "; ".join(others) or "as in the lock file", mend, is_wrong=bool(others))


def _folders() -> Iterator[Finding]:
    """Folders and disk."""
    folders = {"ETL_HOME": home(), "DAGSTER_HOME": dagster_home()}
    if (folder := lake().folder) is not None:
        folders["lake"] = folder
    for name, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            mend = f"Make it writable for this user, or set {name if name != 'lake' else 'ETL_LAKE_URL'} to another."
            yield Finding(name, f"{there} is not writable", mend, is_wrong=True)
            continue
        free = shutil.disk_usage(there).free
        said = f"{folder}, {free / (1 << 30):.1f} GB free"
        if free < _FREE_BYTES:
            yield Finding(name, said, "Free some space, for example with ./dev clean: a run needs 2 GB.", is_wrong=True)
        else:
            yield Finding(name, said)
    for secret in (home() / "local.json", Path(".env")):
        if secret.exists() and secret.stat().st_mode & 0o077:
            said = f"{secret} can be read by other users, and may hold passwords"
            yield Finding("permissions", said, f"chmod 600 {secret}", is_wrong=True)


def _embedded() -> Iterator[Finding]:
    """The embedded default."""
    embedded.up(may_show=False)
    yield Finding("embedded default", "runs everything that is not configured to be elsewhere")


def _warehouse() -> Iterator[Finding]:
    """The warehouse."""
    with warehouse().connect(role=None) as connection:
        server, login, clock = connection.execute(
            "SELECT current_setting('server_version'), current_user, clock_timestamp()"
        ).fetchone() or ("", "", datetime.now(UTC))
        yield Finding("warehouse", f"PostgreSQL {server}, as {login}")
        yield _clock("the warehouse", clock)
        yield _postgis(connection)
        yield _schemas(connection, login)


def _postgis(connection: psycopg.Connection) -> Finding:
    found = connection.execute(
        "SELECT installed_version, default_version, NOT superuser OR rolsuper OR trusted AND"
        " has_database_privilege(current_database(), 'CREATE') FROM pg_available_extensions"
        " JOIN pg_available_extension_versions USING (name), pg_roles"
        " WHERE name = 'postgis' AND version = default_version AND rolname = current_user"
    ).fetchone()
    if found is None:
        return Finding("PostGIS", "not installed", "Install postgresql-*-postgis-3 on the server.", is_wrong=True)
    installed, available, may = found
    if installed is not None:
        return Finding("PostGIS", installed)
    who = "The first run executes" if may else "Have an administrator run in the database"
    mend = f"{who}: CREATE EXTENSION postgis;"
    return Finding("PostGIS", f"{available} is available, but not added yet", mend, is_wrong=not may)


def _schemas(connection: psycopg.Connection, login: str) -> Finding:
    """Which schemas are missing; if none is, who works in them."""
    may, there = connection.execute(
        "SELECT has_database_privilege(current_database(), 'CREATE'),"
        " (SELECT count(*) FROM pg_namespace WHERE nspname = ANY(%s))",
        (list(roles.SCHEMAS),),
    ).fetchone() or (False, 0)
    if there < len(roles.SCHEMAS) and may:
        return Finding("schemas", "the first run creates them")
    if there < len(roles.SCHEMAS):
        needed = f'GRANT CREATE ON DATABASE "{connection.info.dbname}" TO "{login}";'
        said = "some are missing, and may not be created"
        return Finding("schemas", said, f"Have an administrator run: {needed}", is_wrong=True)
    if missing := roles.what_to_run(connection):
        mend = f"For it to run as {roles.WRITER}, have an administrator run: {missing}"
        return Finding("roles", f"the pipeline runs as {login}", mend)
    return Finding("roles", f"the pipeline runs as {roles.WRITER}")


def _dagster() -> Iterator[Finding]:
    """Dagster's own storage."""
    if not os.environ.get("DAGSTER_HOME"):  # the embedded default, which sets it, did not start: this is said above
        return
    with dagster_instance() as instance:
        where = "PostgreSQL" if settings().dagster_storage_url else "SQLite"
        yield Finding("Dagster's storage", f"{where}, {instance.get_runs_count()} runs")


def _lake() -> Iterator[Finding]:
    """The lake."""
    store, path, body = lake(), f"doctor/{uuid.uuid4().hex}", b"written to see whether it may be, and deleted"
    store.put(path, body)
    try:
        read, listed = store.get(path), path in store.list("doctor")
    finally:
        store.delete(path)
    if read != body or not listed or store.get(path) is not None:
        said = f"{store.url}: an object that was just written is not read, listed or deleted correctly"
        yield Finding("lake", said, "Use a strongly consistent store.", is_wrong=True)
    else:
        yield Finding("lake", f"{store.url}: written, read, listed, deleted")


def _sources() -> Iterator[Finding]:
    """The sources."""
    asked = [spec for spec in SPECS.values() if spec.source is not None]

    def ask(spec: Spec) -> Finding:
        assert spec.source is not None
        try:
            spec.source.probe(None)
        except (SourceError, NotConfiguredError) as error:
            return Finding(f"source of {spec.key.path[-1]}", str(error), is_wrong=True)
        return Finding(f"source of {spec.key.path[-1]}", "answers")

    with ThreadPoolExecutor(8, thread_name_prefix="doctor") as pool:
        yield from pool.map(ask, asked)
    manifests = (landing_store(spec.key.path[-1]).current() for spec in asked)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    known = [settings().local_sources_url, endpoint, *(m.url for m in manifests if m)]
    for host in sorted(
        {f"{p.scheme}://{p.netloc}" for url in known if url and (p := urlsplit(url)).scheme[:4] == "http"}
    ):
        if date := http.clock(host):  # that one does not answer is said above
            yield _clock(urlsplit(host).hostname or host, date)


def _alerts() -> Iterator[Finding]:
    """Alerts."""
    found, wrong = receivers()
    for why in wrong:
        yield Finding("alerts", why, is_wrong=True)
    if found:
        yield Finding("alerts", f"go to {', '.join(receiver.name for receiver in found)}")
    elif not wrong:
        yield Finding("alerts", "go to nobody", "Set ETL_ALERT_WEBHOOK_URL, ETL_ALERT_SMTP_URL or ETL_ALERT_SNS_TOPIC.")


def _clock(whose: str, clock: datetime) -> Finding:
    """Compare this machine's clock with another's: signed requests and "newest" depend on it."""
    skew = abs((datetime.now(UTC) - clock).total_seconds())
    said = f"differs by {skew:.0f} s from that of {whose}"
    if skew > _SKEW_SECONDS:
        return Finding("clock", said, "Correct the clock that is wrong (timedatectl, chronyc).", is_wrong=True)
    return Finding("clock", said)


def _pipeline() -> Iterator[Finding]:
    """What runs, checks, sensors and schedules have found."""
    if not os.environ.get("DAGSTER_HOME"):
        return
    with dagster_instance() as instance:
        found = problems(instance)
    for problem in found:
        where, said = ", ".join(problem.assets[:3]) or problem.about, f"{problem.kind}: {problem.what}"
        yield Finding(where, said, problem.advice, is_wrong=not problem.is_warning)
    if not found:
        yield Finding("pipeline", "no run, check, sensor or schedule has an unresolved failure")


EXAMINATIONS = (_python, _folders, _embedded, _warehouse, _dagster, _lake, _sources, _pipeline, _alerts)
