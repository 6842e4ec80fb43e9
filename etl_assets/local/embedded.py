"""The embedded default as a whole: what is started where nothing else is configured, and where that is recorded.

What it provides is written to `local.json` in ETL_HOME, which `settings` reads with lower priority than the
environment: whatever starts later, be it `./dev`, a plain `dagster dev` or a run process, finds the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etl_assets.local.databases import DATABASES, show
from etl_assets.local.postgres import Cluster
from etl_assets.local.recordings import Recordings
from etl_assets.local.sample import write_sample
from etl_assets.local.source_process import SourceServer
from etl_assets.local.source_server import ROUTES
from etl_assets.local.whole import write_whole
from etl_assets.settings import PROJECT, Settings, dagster_home, explicit_settings, home

log = logging.getLogger("etl_assets.local")

#: What Dagster (which looks for its settings by a pattern) or pg_ctl (which asks a shell) take for something else.
_UNFIT = frozenset('[]*?$`"\\')


def cluster() -> Cluster:
    """The private PostgreSQL."""
    return Cluster(home() / "postgres")


def source_server() -> SourceServer:
    """The server that replays recorded sources."""
    return SourceServer(home() / "sources")


def up(*, may_show: bool = True) -> None:
    """Start whatever is not configured to be elsewhere and is not running yet.

    Without `may_show`, the local sources keep showing the folder and the date that they showed before.
    """
    configured = explicit_settings()
    for variable, folder in (("ETL_HOME", home()), ("DAGSTER_HOME", dagster_home())):
        if unfit := sorted(_UNFIT & set(str(folder))):
            raise ValueError(
                f"{folder} has {' '.join(unfit)} in its name, which Dagster or PostgreSQL takes for something else. "
                f"Set {variable} to a folder without it."
            )
    home().mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {}
    databases = _databases(configured)
    if configured.warehouse_url is None or configured.dagster_storage_url is None or databases:
        cluster().start()
        if configured.warehouse_url is None:
            given["warehouse_url"] = cluster().create_database("warehouse")
        if configured.dagster_storage_url is None:
            given["dagster_storage_url"] = cluster().create_database("dagster")
    if configured.sources == "local" and configured.local_sources_url is None:
        given["local_sources_url"] = _start_sources(configured, may_show=may_show)
        token = configured.retail_token
        given["retail_token"] = source_server().token(token.get_secret_value() if token else None)
    for source in databases:
        given[f"{source}_url"] = show(cluster(), source, _recordings(configured))
    if _provides_sales_folder(configured):
        given["retail_sales_folder"] = str(_drop_sales(_recordings(configured)))
    if "local_sources_url" in given:
        given["local_versions"] = _versions(source_server().recordings())
    before = _given()
    if may_show and configured.sources == "live":  # then nobody is to be asked but the publishers
        before = {name: before[name] for name in ("warehouse_url", "dagster_storage_url") if name in before}
    _give(before | given)  # a UI that runs with other variables may need what this command does not
    _make_dagster_home()


def publish(date: str) -> dict[str, str]:
    """Let the local sources show their state of a date; return the publication that each shows."""
    if explicit_settings().sources != "local":
        raise ValueError("ETL_SOURCES=live asks the publishers; `./dev publish` is only for the local sources.")
    shown = source_server().publish(date)
    for source in _databases(explicit_settings()):
        show(cluster(), source, source_server().recordings())
    if _provides_sales_folder(explicit_settings()):
        _drop_sales(source_server().recordings())
    _give(_given() | {"local_versions": _versions(source_server().recordings())})
    return shown


def down() -> None:
    """Stop what `up` started; data and settings stay."""
    source_server().stop()
    cluster().stop()
    (home() / "local.json").unlink(missing_ok=True)


def _given() -> dict[str, Any]:
    """What is provided now."""
    file = home() / "local.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _give(given: Mapping[str, Any]) -> None:
    write_whole(home() / "local.json", json.dumps(given, indent=1))


def _versions(recordings: Recordings) -> dict[str, str]:
    """For each API, a digest of which of its recordings are shown."""
    found = {}
    for source in ROUTES:
        paths = sorted(file.path for file in recordings.latest(source).values())
        shown = [(str(path.relative_to(recordings.data)), path.stat()) for path in paths]
        told = json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in shown])
        found[source] = hashlib.sha256(told.encode()).hexdigest()[:16]
    return found


def _databases(configured: Settings) -> list[str]:
    """The source databases that the embedded default has to provide."""
    wanted = DATABASES if configured.sources == "local" else ()
    return [source for source in wanted if getattr(configured, f"{source}_url") is None]


def _recordings(configured: Settings) -> Recordings:
    """What the source databases show: the same as the source server, where it is ours."""
    if configured.local_sources_url is None:
        return source_server().recordings()
    return Recordings(_sample(configured), configured.sample_as_of)


def _sample(configured: Settings) -> Path:
    """The folder of recordings: the one that the user names, or has named before, or our own."""
    own = home() / "sample"
    folder = configured.sample_data or _shown_before() or own
    if folder.resolve() == own:
        write_sample(own)
    return folder


def _shown_before() -> Path | None:
    """The folder that was shown last; None if there was none, or if the project's own was deleted.

    Without ETL_SAMPLE_DATA the same folder stays shown: changing it would look like a publication in which nearly
    everything has shrunk. Raises ValueError if it is gone: a disk that is not mounted is not a publication either.
    """
    try:
        folder, own = source_server().recordings().data, home() / "sample"
    except RuntimeError:  # it was never started
        return None
    if not folder.is_dir() and folder != own:
        raise ValueError(
            f"The folder of recordings that the local sources show, {folder}, is gone. Restore it, or set "
            f"ETL_SAMPLE_DATA to another; {own} is the project's own."
        )
    return folder if folder.is_dir() else None


def _wish_file() -> Path:
    """The file that says which date and folder somebody has asked for, to be compared with the next wish."""
    return home() / "sources" / "wish"


def _provides_sales_folder(configured: Settings) -> bool:
    """Whether the embedded default has to provide the folder of retail sales."""
    return configured.sources == "local" and configured.retail_sales_folder is None


def _drop_sales(recordings: Recordings) -> Path:
    """Put the sales file that the local sources show into the watched folder; other files there stay.

    This is done once for each file that they show: if somebody mends or removes it there, it stays that way.
    """
    recording = recordings.find("retail", "sales_data.csv")
    file, dropped = home() / "retail_sales" / "sales_data.csv", home() / "sources" / "dropped"
    file.parent.mkdir(parents=True, exist_ok=True)
    if recording:
        digest = hashlib.sha256(recording.read()).hexdigest()
        if not dropped.exists() or dropped.read_text() != digest:
            write_whole(file, recording.read())
            dropped.parent.mkdir(parents=True, exist_ok=True)
            write_whole(dropped, digest)
    return file.parent


def _start_sources(configured: Settings, *, may_show: bool = True) -> str:
    if not may_show and (shown := _shown_before()):
        return source_server().start(shown)
    data, before = _sample(configured), None
    with contextlib.suppress(RuntimeError):  # it was never started
        before = source_server().recordings()
    # A date in the environment counts only when it is new, so that it does not undo a later `./dev publish`.
    wish = f"{configured.sample_as_of or ''} {data.resolve()}"
    is_new = not _wish_file().exists() or _wish_file().read_text() != wish
    url = source_server().start(data, configured.sample_as_of if is_new else None)
    now = source_server().recordings()
    if before is not None and now != before:
        log.info("The local sources show %s%s from now on.", now.data, f" as of {now.as_of}" if now.as_of else "")
    write_whole(_wish_file(), wish)
    return url


def _make_dagster_home() -> None:
    """Make Dagster's folder, with the project's settings, and set DAGSTER_HOME to it."""
    folder = dagster_home()
    os.environ["DAGSTER_HOME"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "dagster.yaml"
    if not link.exists():
        link.unlink(missing_ok=True)  # it leads to where the checkout was before it was moved
        with contextlib.suppress(FileExistsError):  # another command was faster
            link.symlink_to(PROJECT / "dagster.yaml")
