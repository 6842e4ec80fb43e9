"""A private PostgreSQL with PostGIS, for the embedded default and for tests.

Here: the life of one cluster: create, start, stop, its databases. Not here: what is in those databases, and where the
server's programs come from (postgres_programs.py). `Cluster` is the whole interface:

    cluster = Cluster(home() / "postgres")
    cluster.start()
    url = cluster.create_database("warehouse")
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from etl_assets.local.postgres_programs import PostgresError, Programs, find_programs, run_program
from etl_assets.local.whole import write_whole

log = logging.getLogger("etl_assets.local")

ROLE = "etl"
TEMPLATE = "etl_template"
# How to connect, whatever variables like PGSSLMODE=require say: those are meant for another server.
_CONNECTION = (
    "hostaddr=127.0.0.1&sslmode=disable&gssencmode=disable&channel_binding=disable&target_session_attrs=any&options=%20"
)
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
    # No standby reads the log, so rows of a table created in the same transaction need not be written to it as well.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # Parallel queries use this first, and /dev/shm only beyond it, which has only 64 MB in containers.
    "min_dynamic_shared_memory": "128MB",
    # Compiling costs more than it saves on tables of this size, and its library is not fetched.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}
# Tests throw their clusters away: the data has to survive a kill -9, but not a power cut.
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True)
class Cluster:
    """One private PostgreSQL cluster on 127.0.0.1; everything it has except the programs lies below `home`.

    `home` is an absolute path. `fast` is for tests: a power cut may destroy the cluster. All methods may be called by
    several processes at once.
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
        """Stop the cluster and wait for its end; `immediate` skips the last checkpoint."""
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
                        f"Its log: {self._log}. To stop it at once: kill -QUIT {pid}"
                    )
                time.sleep(0.02)

    def is_running(self) -> bool:
        """Whether the cluster's server process lives."""
        return self._postmaster() is not None

    def url(self, database: str) -> str:
        """The address of a database, password included; it need not exist yet."""
        try:
            password, port = self._password_file.read_text(), self._port_file.read_text()
        except FileNotFoundError:
            raise PostgresError(f"there is no PostgreSQL in {self.home} yet: start it first") from None
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{quote(database, safe='')}?{_CONNECTION}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database unless there is one of that name, and return its address.

        It is a copy of `template`, to which nobody may be connected; by default it holds nothing but PostGIS.
        """
        # Copied file by file: through the log, the default, tests wait two to three times as long (measured).
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
            sql.Identifier(name), sql.Identifier(template or TEMPLATE)
        )
        # When two create the same name at once, one of them finds it there: at its check, or in the catalog.
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
        """The program psql, and the environment that it needs to find its libraries."""
        programs = find_programs(self._major(), self.home)
        return str(programs.bin / "psql"), {**os.environ, **programs.environment}

    # --- files

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def _password_file(self) -> Path:
        return self.home / "password"

    @property
    def _port_file(self) -> Path:
        return self.home / "port"

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Let one process at a time create, start or stop this cluster."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = (self.home / "lock").open("a")
        except PermissionError as error:
            raise PostgresError(
                f"{error.filename} is not writable: it, or its folder, belongs to another user. "
                "Run this as that user, or set ETL_HOME to a folder of your own."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _major(self) -> int | None:
        """The major version that created the cluster; None before that."""
        try:
            return int((self._data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    # --- the server

    def _postmaster(self) -> int | None:
        """The server's process id; None when it does not run."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_our_server(pid) else None

    def _is_our_server(self, pid: int) -> bool:
        """Tell our server from another process that got its number after a crash or a reboot."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self._data) in command

    def _create(self, programs: Programs, account: Account) -> None:
        """Create the cluster; it appears under its name only when it is whole."""
        log.info("creating a PostgreSQL cluster in %s", self.home)
        if not self._password_file.exists():
            write_whole(self._password_file, secrets.token_urlsafe(24))
            account.own(self._password_file)  # initdb reads it
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        # How passwords are checked: the better way takes half the time of a connection, and tests make thousands.
        options = [f"--username={ROLE}", f"--pwfile={self._password_file}"]
        options.append("--auth=md5" if self.fast else "--auth=scram-sha-256")
        # Sorting by bytes is several times faster than by a language's rules; letters are Unicode's.
        options += ["--encoding=UTF8", "--lc-collate=C", "--lc-ctype=C.UTF-8", "--lc-messages=C"]
        if self.fast:
            options.append("--no-sync")
        run_program(
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
            elif "could not bind" not in answer:  # this means that somebody took the port after it was chosen
                break
        raise PostgresError(f"PostgreSQL did not start. The end of its log, {self._log}:\n{answer[-2000:]}")

    def _configure(self, port: int, account: Account) -> None:
        """Write the settings, anew for every start, and begin a log if there is none or it is too large."""
        settings = {**SETTINGS, **(FAST_SETTINGS if self.fast else {}), "port": str(port)}
        conf = self._data / "etl.conf"
        write_whole(conf, "".join(f"{name} = '{value}'\n" for name, value in settings.items()), 0o644)
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
        """Remove a pid file whose number now belongs to another process, which PostgreSQL would take for its own.

        When no process has the number, PostgreSQL removes the file itself, after looking for survivors of its own.
        """
        pid_file = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(pid_file.read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}").exists() and not self._is_our_server(pid):
                pid_file.unlink()

    def _choose_port(self) -> int:
        """The remembered port, or a new one if there is none or somebody has taken it."""
        text = self._port_file.read_text() if self._port_file.exists() else ""
        remembered = int(text) if text.strip().isdigit() else 0  # a power cut may have left the file empty
        try:
            port = free_port(remembered)
        except OSError:
            port = free_port(0)
            log.info("port %s is taken by another program; PostgreSQL moves to %s", remembered, port)
        if port != remembered:
            write_whole(self._port_file, str(port), 0o644)
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
    """The user that the server runs as: PostgreSQL refuses root, so root is made to look like another user."""

    wrapper: Sequence[str] = ()
    uid: int | None = None  # the new owner of what the server writes; None where it stays the caller's

    @classmethod
    def of_caller(cls) -> Account:
        """How the calling user can run a server."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        user, group = nobody.pw_uid, nobody.pw_gid
        # In a user namespace the process is still root to everyone else, and files stay root's.
        namespace = ["unshare", "--user", f"--map-user={user}", f"--map-group={group}"]
        # Where namespaces are refused (containers, chroot), it has to be another user; the capability lets
        # that user reach the cluster below folders like /root.
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
        """Give a file, or a folder with everything in it, to the user who runs the server."""
        if self.uid is None or path.stat().st_uid == self.uid:
            return
        for folder, _, files in os.walk(path):
            for name in files:
                os.chown(Path(folder, name), self.uid, -1, follow_symlinks=False)
            if Path(folder) != path:
                os.chown(folder, self.uid, -1)
        os.chown(path, self.uid, -1)  # last: its owner tells whether the rest is done


# --- small tools


def free_port(wanted: int) -> int:
    """A port of 127.0.0.1 that can be listened on: the wanted one, or any for 0."""
    with socket.socket() as probe:
        # as PostgreSQL does: connections of its last life that still linger do not matter
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        probe.listen()
        return int(probe.getsockname()[1])
