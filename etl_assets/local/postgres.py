"""A private PostgreSQL with PostGIS, for the embedded default and for tests.

Here belong finding or fetching the server's programs, and the life of one cluster: create, start, stop, its
databases. What is in those databases does not. `Cluster` is the whole interface:

    cluster = Cluster(Path(".etl/postgres"))
    cluster.start()
    url = cluster.create_database("warehouse")

The programs are the system's where it has PostgreSQL 15 or newer with PostGIS. Elsewhere Debian's own
packages are unpacked, without root and without installing anything, into a cache that all clones share.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import platform
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

log = logging.getLogger("etl_assets.local")

OLDEST_MAJOR = 15
ROLE = "etl"
TEMPLATE = "etl_template"
START_SECONDS = 60
STOP_SECONDS = 60
LARGE_LOG = 20_000_000

# For two cores and a few gigabytes. What protects data stays at PostgreSQL's defaults: fsync,
# full_page_writes, synchronous_commit.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may have 107 bytes, and a checkout's may be longer
    "max_connections": "100",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "32MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    # No standby reads its log: rows of a table that is made with them need not be written into it as well.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # Parallel queries use this first, and /dev/shm only beyond it: in containers that has but 64 MB.
    "min_dynamic_shared_memory": "128MB",
    # Compiling costs more than it saves on tables of this size, and its library is not fetched.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}
# Tests throw their clusters away: what they hold has to survive a kill -9, but no power cut.
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}


class PostgresError(RuntimeError):
    """The private PostgreSQL cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class Cluster:
    """One private PostgreSQL cluster on 127.0.0.1; everything it has, but the programs, lies below `home`.

    `fast` is for tests: a power cut may destroy the cluster. All methods may be called by several processes
    at once.
    """

    home: Path
    fast: bool = False

    def start(self) -> None:
        """Make the cluster answer: fetch the programs, create it, start it, each only if still needed."""
        with self._locked():
            if self._postmaster() is None:
                programs = find_programs(self._major(), self.home)
                account = Account.of_caller()
                if self._major() is None:
                    self._create(programs, account)
                self._launch(programs, account)
            self._wait_until_it_answers()
            self._ensure_template()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the cluster and wait for its end; `immediate` does without a last checkpoint."""
        with self._locked():
            pid = self._postmaster()
            if pid is None:
                return
            os.kill(pid, signal.SIGQUIT if immediate else signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while self._postmaster() is not None:
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"PostgreSQL (process {pid}) has not stopped within {STOP_SECONDS} s. "
                        f"Its log: {self._log}. To stop it without waiting for what it does: kill -QUIT {pid}"
                    )
                time.sleep(0.02)

    def is_running(self) -> bool:
        """Tell whether the cluster's server process lives."""
        return self._postmaster() is not None

    def url(self, database: str = "warehouse") -> str:
        """Return the address of a database, password included; it need not exist yet."""
        try:
            password, port = self._password_file.read_text(), self._port_file.read_text()
        except FileNotFoundError:
            raise PostgresError(f"there is no PostgreSQL in {self._home} yet: start it first") from None
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{quote(database, safe='')}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database unless there is one of that name, and return its address.

        It is a copy of `template`, to which nobody may be connected; without one it is empty but for PostGIS.
        """
        # File by file: through the log, as is the default, tests wait two to three times as long (measured).
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
            sql.Identifier(name), sql.Identifier(template or TEMPLATE)
        )
        # Of two that create the same name at once, one finds it there: at its check, or in the catalog.
        already_there = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)
        with self._connect() as connection, contextlib.suppress(*already_there):
            if not _database_exists(connection, name):
                connection.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end the connections to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with self._connect() as connection:
            connection.execute(statement)

    def psql(self) -> tuple[str, dict[str, str]]:
        """Return the program psql, and the environment that it needs to find its libraries."""
        programs = find_programs(self._major(), self.home)
        return str(programs.bin / "psql"), {**os.environ, **programs.environment}

    # --- files

    @property
    def _home(self) -> Path:
        return self.home.expanduser().absolute()

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _log(self) -> Path:
        return self._home / "postgres.log"

    @property
    def _password_file(self) -> Path:
        return self._home / "password"

    @property
    def _port_file(self) -> Path:
        return self._home / "port"

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Let one process at a time create, start or stop this cluster."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            lock = (self._home / "lock").open("a")
        except PermissionError as error:
            raise PostgresError(
                f"{error.filename} cannot be written to: another user made it, or the folder it is in. "
                "Run this as that user, or set ETL_HOME to a folder of your own."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _major(self) -> int | None:
        """Return the major version that created the cluster; None before that."""
        try:
            return int((self._data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    # --- the server

    def _postmaster(self) -> int | None:
        """Return the server's process id; None when it does not run."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_our_server(pid) else None

    def _is_our_server(self, pid: int) -> bool:
        """Tell our server from a stranger that was given its number after a crash or a reboot."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self._data) in command

    def _create(self, programs: Programs, account: Account) -> None:
        """Create the cluster; it appears under its name only when it is whole."""
        log.info("creating a PostgreSQL cluster in %s", self._home)
        if not self._password_file.exists():
            _write(self._password_file, secrets.token_urlsafe(24), mode=0o600)
            account.own(self._password_file)  # initdb reads it
        unfinished = self._home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        # What a password is asked with: the better way takes half the time of a connection, and tests make thousands.
        options = [f"--username={ROLE}", f"--pwfile={self._password_file}"]
        options.append("--auth=md5" if self.fast else "--auth=scram-sha-256")
        # Sorting by bytes is several times faster than by a language's rules; letters are Unicode's.
        options += ["--encoding=UTF8", "--lc-collate=C", "--lc-ctype=C.UTF-8", "--lc-messages=C"]
        if self.fast:
            options.append("--no-sync")
        _run(
            [*account.wrapper, str(programs.bin / "initdb"), f"--pgdata={unfinished}", *options],
            programs.environment,
            "PostgreSQL could not create its cluster",
        )
        with (unfinished / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'etl.conf'  # written at every start\n")
        unfinished.rename(self._data)

    def _launch(self, programs: Programs, account: Account) -> None:
        """Start the server on the port it had, or on another one when that is taken."""
        account.own(self._data)
        self._remove_stale_pid_file()
        for _ in range(5):
            self._configure(self._choose_port(), account)
            written_before = self._log.stat().st_size
            if self._pg_ctl_start(programs, account):
                return
            answer = self._log.read_bytes()[written_before:].decode(errors="replace")
            if "is still in use" in answer:
                time.sleep(1)  # the processes of a server that was killed need a moment to notice
            elif "could not bind" not in answer:  # which is somebody who took the port since it was chosen
                break
        raise PostgresError(f"PostgreSQL did not start. The end of its log, {self._log}:\n{answer[-2000:]}")

    def _configure(self, port: int, account: Account) -> None:
        """Write the settings, anew for every start, and begin a log if there is none or it is too large."""
        settings = {**SETTINGS, **(FAST_SETTINGS if self.fast else {}), "port": str(port)}
        conf = self._data / "etl.conf"
        _write(conf, "".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        if self._log.exists() and self._log.stat().st_size > LARGE_LOG:
            self._log.rename(self._log.with_suffix(".log.old"))
        self._log.touch(mode=0o600)
        for path in (conf, self._log):
            account.own(path)

    def _pg_ctl_start(self, programs: Programs, account: Account) -> bool:
        command = [str(programs.bin / "pg_ctl"), "start", "--silent", "--wait", f"--timeout={START_SECONDS}"]
        done = subprocess.run(
            [*account.wrapper, *command, f"--pgdata={self._data}", f"--log={self._log}"],
            env={**os.environ, **programs.environment},
            cwd="/",
            # The server lives on with what it inherits: a pipe would keep its reader waiting for ever.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode == 0

    def _remove_stale_pid_file(self) -> None:
        """Remove a pid file whose number now belongs to a stranger, which PostgreSQL would take for itself.

        When nobody has the number, PostgreSQL removes the file, after looking for survivors of its own.
        """
        pid_file = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(pid_file.read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}").exists() and not self._is_our_server(pid):
                pid_file.unlink()

    def _choose_port(self) -> int:
        """Return the remembered port, or a new one if there is none or somebody has taken it."""
        remembered = int(self._port_file.read_text()) if self._port_file.exists() else 0
        try:
            port = _free_port(remembered)
        except OSError:
            port = _free_port(0)
            log.info("port %s is taken by another program; PostgreSQL moves to %s", remembered, port)
        if port != remembered:
            _write(self._port_file, str(port))
        return port

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error) or time.monotonic() > deadline:
                    raise PostgresError(
                        f"PostgreSQL runs but does not answer: {error}\nIts log: {self._log}"
                    ) from error
                time.sleep(0.1)

    # --- databases

    def _connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=10)

    def _ensure_template(self) -> None:
        """Prepare a database with PostGIS once: copying it takes 25 ms, CREATE EXTENSION half a second."""
        with self._connect() as connection:
            if _database_exists(connection, TEMPLATE):
                return
            template, unfinished = sql.Identifier(TEMPLATE), sql.Identifier(f"{TEMPLATE}_unfinished")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(unfinished))
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(unfinished))
            with self._connect(f"{TEMPLATE}_unfinished") as new:
                new.execute("CREATE EXTENSION postgis")
            # Nobody can connect to it, so nobody ever stands in the way of a copy.
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(unfinished))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(unfinished, template))


def _database_exists(connection: psycopg.Connection, name: str) -> bool:
    return connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


# --- who runs the server


@dataclass(frozen=True)
class Account:
    """As whom the server runs: PostgreSQL refuses to be root, so for root it is made to look like another."""

    wrapper: Sequence[str] = ()
    uid: int | None = None  # the new owner of what the server writes; None where it stays the caller's

    @classmethod
    def of_caller(cls) -> Account:
        """Return how the calling user can run a server."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        user, group = nobody.pw_uid, nobody.pw_gid
        # In a user namespace the process is still root to everyone else, and files stay root's.
        namespace = ["unshare", "--user", f"--map-user={user}", f"--map-group={group}"]
        # Where those are refused (containers, chroot) another user has to do; the capability lets him reach
        # the cluster below folders like /root.
        other_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        capable = [*other_user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        for account in (cls(namespace, 0), cls(capable, user), cls(other_user, user)):
            with contextlib.suppress(FileNotFoundError):
                done = subprocess.run([*account.wrapper, "true"], check=False, capture_output=True)
                if done.returncode == 0:
                    return account
        raise PostgresError(
            "PostgreSQL does not run as root, and neither unshare nor setpriv can make it run as another "
            "user here. Run ./dev as an ordinary user, or set ETL_WAREHOUSE_URL to a database of yours."
        )

    def own(self, path: Path) -> None:
        """Give a file, or a folder with all it holds, to the one who runs the server."""
        if self.uid is None or path.stat().st_uid == self.uid:
            return
        for folder, _, files in os.walk(path):
            for name in files:
                os.chown(Path(folder, name), self.uid, -1, follow_symlinks=False)
            if Path(folder) != path:
                os.chown(folder, self.uid, -1)
        os.chown(path, self.uid, -1)  # last: its owner tells whether the rest is done


# --- the programs


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs, with PostGIS, and the environment they need to find their libraries."""

    major: int
    bin: Path
    environment: Mapping[str, str]


def find_programs(major: int | None, home: Path) -> Programs:
    """Return the system's PostgreSQL (of that major version, if given), or unpack Debian's into the cache."""
    for programs in (*_installed(Path("/")), *_unpacked(home, fetch=False)):
        if major in (None, programs.major):
            return programs
    for programs in _unpacked(home, fetch=True):
        if major in (None, programs.major):
            return programs
        raise PostgresError(
            f"the cluster in {home} was created by PostgreSQL {major}, and this machine has "
            f"{programs.major}. Install postgresql-{major}-postgis-3; or remove {home} and build the "
            "warehouse again from the lake with ./dev rebuild-warehouse."
        )
    raise AssertionError("fetching either returns programs or raises")


def _installed(root: Path) -> list[Programs]:
    """Return every PostgreSQL with PostGIS below a file system's root, the newest first."""
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
    """Return what leads programs to the libraries and data of an unpacked tree."""
    folders = {library.parent for top in ("lib", "usr/lib") for library in (tree / top).rglob("lib*.so.*")}
    return {
        "LD_LIBRARY_PATH": ":".join(sorted(map(str, folders))),
        "PROJ_LIB": str(tree / "usr/share/proj"),
        "PROJ_DATA": str(tree / "usr/share/proj"),
        "GDAL_DATA": str(tree / "usr/share/gdal"),
    }


def _unpacked(home: Path, *, fetch: bool) -> list[Programs]:
    """Return the programs in the cache; with `fetch`, put them there first if they are missing."""
    tree = _cache(home) / f"postgis-{_release()}-{platform.machine()}"
    if fetch and not tree.exists():
        with (tree.parent / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not tree.exists():
                _fetch(tree, lock.fileno())
    return _installed(tree)


def _cache(home: Path) -> Path:
    """Return the folder that all clones of this user share, or one below `home` where there is none."""
    # As root the server may have to run as another user, who cannot reach what is below /root.
    base = "/var/cache" if os.geteuid() == 0 else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    shared = Path(base).expanduser() / "etl-assets"
    for folder in (shared, home.expanduser().absolute() / "programs"):
        with contextlib.suppress(OSError, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise PostgresError(f"neither {shared} nor {home} can be written to: set ETL_HOME to a folder that can")


@functools.cache
def _release() -> str:
    """Name this system's release: libraries of one do not serve another that shares the home folder."""
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
        raise PostgresError(f"the packages of this system hold no usable PostGIS: {' '.join(names)}")
    unpacked.rename(tree)
    shutil.rmtree(work)
    log.info("PostgreSQL with PostGIS is in %s (%.0f s)", tree, time.monotonic() - started)


@dataclass(frozen=True)
class Apt:
    """apt with its state in a folder of ours: needs no root, and changes nothing of the system's."""

    work: Path
    lock_fd: int

    # Not needed by the server as it is started here; the C library must stay the system's own.
    NOT_FETCHED = re.compile(r"libllvm|libz3|perl|libperl|locales|libc-l10n|libc6|libc-bin|fonts-|ssl-cert")

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a program, and return what it printed."""
        # Children hold the lock too: should this process be killed, the next one waits until they are done
        # before it clears their folder.
        return _run(
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
            # One unreachable source of many, or a hook meant for root, need not matter: what does will
            # fail in the next step.
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
        # --reinstall: also what this system may already have of the two has to be in the tree.
        options = ["--simulate", "--reinstall", "--no-install-recommends"]
        simulated = self._apt("apt-get", "install", *options, server, f"{server}-postgis-3")
        names = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
        return [name for name in names if not self.NOT_FETCHED.match(name)]

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Fetch packages, whose signatures apt checks, into a folder."""
        self._apt("apt-get", "download", *names, cwd=folder)


# --- small tools


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    failure: str,
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
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


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a small file so that it is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    unfinished.replace(path)


def _free_port(wanted: int) -> int:
    """Return a port of 127.0.0.1 that can be listened on: the wanted one, or any for 0."""
    with socket.socket() as probe:
        # as PostgreSQL does: connections of its last life that are still fading do not matter
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        probe.listen()
        return int(probe.getsockname()[1])
