"""The programs of PostgreSQL with PostGIS: found, or fetched.

Where the system has PostgreSQL 15 or newer with PostGIS, its programs are used. Elsewhere Debian's own packages are
unpacked, without root and without installing anything, into a cache that all clones share.

Run as a program, this module does only that, with only the standard library: `./dev` runs it while packages are
installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("etl_assets.local")

OLDEST_MAJOR = 15


class PostgresError(RuntimeError):
    """The private PostgreSQL cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs, with PostGIS, and the environment they need to find their libraries."""

    major: int
    bin: Path
    environment: Mapping[str, str]


def find_programs(major: int | None, home: Path) -> Programs:
    """The system's PostgreSQL (of that major version, if given), or Debian's, unpacked into the cache."""
    for programs in (*_installed(Path("/")), *_unpacked(home, fetch=False)):
        if major in (None, programs.major):
            return programs
    fetched = next(iter(_unpacked(home, fetch=True)), None)
    if fetched is None:
        raise PostgresError(
            f"what was unpacked in {_cache(home)} is no PostgreSQL with PostGIS any more: remove it, and run again"
        )
    if major in (None, fetched.major):
        return fetched
    raise PostgresError(
        f"the cluster in {home} was created by PostgreSQL {major}, and this machine has "
        f"{fetched.major}. Install postgresql-{major}-postgis-3; or remove {home}, with "
        "Dagster's runs and events, and build the warehouse again from the lake with ./dev rebuild-warehouse."
    )


def _installed(root: Path) -> list[Programs]:
    """Every PostgreSQL with PostGIS below a file system's root, the newest first."""
    found = []
    for folder in root.glob("usr/lib/postgresql/*/bin"):
        major = int(folder.parent.name) if folder.parent.name.isdigit() else 0
        needed = [folder / name for name in ("initdb", "pg_ctl", "postgres")]
        needed.append(root / f"usr/share/postgresql/{major}/extension/postgis.control")
        if major >= OLDEST_MAJOR and all(path.exists() for path in needed):
            environment = {} if root == Path("/") else _environment(root)
            found.append(Programs(major, folder, environment))
    return sorted(found, key=lambda programs: -programs.major)


def _environment(tree: Path) -> dict[str, str]:
    """The environment in which programs find the libraries and data of an unpacked tree."""
    folders = {library.parent for top in ("lib", "usr/lib") for library in (tree / top).rglob("lib*.so.*")}
    return {
        "LD_LIBRARY_PATH": ":".join(sorted(map(str, folders))),
        "PROJ_LIB": str(tree / "usr/share/proj"),
        "PROJ_DATA": str(tree / "usr/share/proj"),
        "GDAL_DATA": str(tree / "usr/share/gdal"),
    }


def _unpacked(home: Path, *, fetch: bool) -> list[Programs]:
    """The programs in the cache; with `fetch`, they are put there first if they are missing."""
    tree = _cache(home) / f"postgis-{_release()}-{platform.machine()}"
    if fetch and not tree.exists():
        with (tree.parent / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for PostgreSQL with PostGIS, which is being fetched …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not tree.exists():
                _fetch(tree, lock.fileno())
    return _installed(tree)


def _cache(home: Path) -> Path:
    """The folder that all clones of this user share, or one below `home` where there is none."""
    # As root the server may have to run as another user, who cannot reach what is below /root.
    base = "/var/cache" if os.geteuid() == 0 else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    shared = Path(base).expanduser() / "etl-assets"
    for folder in (shared, home / "programs"):
        with contextlib.suppress(OSError, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise PostgresError(f"neither {shared} nor {home} is writable: set ETL_HOME to a folder that is")


@functools.cache
def _release() -> str:
    """Name this system's release: its libraries do not work on another release that shares the home folder."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "linux"
    return re.sub(r"[^\w.]", "", f"{release['ID']}{release.get('VERSION_ID', '')}")


def _fetch(tree: Path, lock_fd: int) -> None:
    """Unpack Debian's PostGIS with what it needs into `tree`, which appears only when it is whole."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise PostgresError(
            f"this machine has no PostgreSQL {OLDEST_MAJOR} or newer with PostGIS, and no apt-get to fetch "
            "one. Install both, or set ETL_WAREHOUSE_URL to a database of yours."
        )
    started = time.monotonic()
    log.info("fetching PostgreSQL with PostGIS (80 MB, once) …")
    work = tree.with_name(f"{tree.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    unpacked, packages = work / "tree", work / "packages"
    for folder in (unpacked, packages, work / "state/lists/partial", work / "cache/archives/partial"):
        folder.mkdir(parents=True)
    apt = Apt(work, lock_fd)
    apt.update()
    names = apt.needed_packages()
    log.info("downloading %d packages …", len(names))
    apt.download(names, packages)
    log.info("unpacking …")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        unpacking = [pool.submit(apt.run, "dpkg-deb", "--extract", deb, unpacked) for deb in packages.glob("*.deb")]
    for one in unpacking:
        one.result()
    for control in unpacked.glob("usr/share/postgresql/*/extension/postgis-3.control"):
        # what the package's installation script does
        link = control.with_name("postgis.control")
        if not link.exists():
            link.symlink_to(control.name)
    if not _installed(unpacked):
        raise PostgresError(
            f"the packages of this system hold no usable PostGIS: {' '.join(names)}. Install PostgreSQL with PostGIS, "
            "or set ETL_WAREHOUSE_URL to a database of yours."
        )
    unpacked.rename(tree)
    shutil.rmtree(work)
    log.info("PostgreSQL with PostGIS is in %s (%.0f s)", tree, time.monotonic() - started)


@dataclass(frozen=True)
class Apt:
    """apt with its state in a folder of ours: it needs no root, and changes nothing in the system."""

    work: Path
    lock_fd: int

    # Not needed by the server as it is started here; the C library must stay the system's own.
    NOT_FETCHED = re.compile(r"libllvm|libz3|perl|libperl|locales|libc-l10n|libc6|libc-bin|fonts-|ssl-cert")

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a program, and return what it printed."""
        # Children hold the lock too: should this process be killed, the next one waits until they are done
        # before it clears their folder.
        return run_program(
            [str(word) for word in command],
            {"LC_ALL": "C"},
            "PostgreSQL with PostGIS could not be fetched",
            cwd=cwd,
            pass_fds=[self.lock_fd],
        )

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        settings = {
            "Dir::State": self.work / "state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": self.work / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "",  # as root, apt would download as a user who cannot write here
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return self.run(program, *options, "-qq", *arguments, cwd=cwd)

    def update(self) -> None:
        """Fetch the lists of packages."""
        try:
            self._apt("apt-get", "update")
        except PostgresError as error:
            # One unreachable source of many, or a hook meant for root, need not matter: an error that does
            # will come up again in the next step.
            log.warning("apt-get update reports: %s", error)

    def needed_packages(self) -> list[str]:
        """Name the packages of the newest PostGIS, with those it needs that this system lacks."""
        listed = self._apt("apt-cache", "search", "--names-only", r"^postgresql-[0-9]+-postgis-3$")
        majors = [int(number) for number in re.findall(r"^postgresql-(\d+)-postgis-3 ", listed, re.MULTILINE)]
        if max(majors, default=0) < OLDEST_MAJOR:
            raise PostgresError(
                f"the package sources of this system have no PostGIS for PostgreSQL {OLDEST_MAJOR} or newer "
                "(or cannot be reached: see above). Check the network and /etc/apt, or set ETL_WAREHOUSE_URL "
                "to a database of yours."
            )
        server = f"postgresql-{max(majors)}"
        # --reinstall: the tree has to hold both packages, even one that this system already has.
        options = ["--simulate", "--reinstall", "--no-install-recommends"]
        simulated = self._apt("apt-get", "install", *options, server, f"{server}-postgis-3")
        names = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
        return [name for name in names if not self.NOT_FETCHED.match(name)]

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Fetch packages, whose signatures apt checks, into a folder."""
        self._apt("apt-get", "download", *names, cwd=folder)


def run_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    failure: str,
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a program, and return what it printed; raises PostgresError with what it said if it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=cwd or "/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=pass_fds,
        check=False,
    )
    if done.returncode:
        output = (done.stderr.strip() or done.stdout.strip())[-2000:]
        reason = "the disk is full" if "No space left" in output else f"status {done.returncode} of"
        raise PostgresError(f"{failure}: {reason} {' '.join(command)[:300]}\n{output}")
    return done.stdout


if __name__ == "__main__":
    find_programs(None, Path(sys.argv[1]))
