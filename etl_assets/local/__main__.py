"""The commands behind `./dev`, for everything but setting up and testing."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from dotenv import load_dotenv
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from etl_assets.local import embedded
from etl_assets.settings import PROJECT, NotConfiguredError, explicit_settings, settings
from etl_assets.storage import roles
from etl_assets.storage.configured import warehouse

COMMANDS = {
    "run": "bring every table up to date, and print what there is",
    "ui": "open the Dagster UI",
    "sql": "ask the warehouse: a statement, or options of psql; changes nothing unless --write comes first",
    "publish": "let the local sources show their state of a date",
    "clean": "delete logs and superseded landed files that are older than they are kept",
    "diff": "what a table's publications changed, or how it differs from another lake's",
    "doctor": "look at everything, and say what is wrong and how to mend it",
    "rebuild-warehouse": "drop the warehouse's tables and build them again from the lake",
    "dictionary": "write docs/data_dictionary.md from the contracts",
    "up": "start the embedded default",
    "down": "stop everything that was started here",
}


def main(arguments: Sequence[str]) -> int:
    """Answer one command; gives its exit status."""
    load_dotenv(".env")  # for what reads the environment itself: ETL_HOME, AWS_…, and what is started here
    parser = argparse.ArgumentParser(prog="./dev")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    parsers["ui"].add_argument("--port", type=int, default=urlsplit(settings().dagster_ui_url).port or 3000)
    parsers["run"].add_argument("datasets", nargs="*", help="only these, and what they are made from (default: all)")
    parsers["run"].add_argument(
        "--anew", action="store_true", help="land these whole, whatever their sources say of their version"
    )
    parsers["publish"].add_argument("date")
    parsers["clean"].add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parsers["diff"].add_argument("table", help="such as refined.us_counties")
    parsers["diff"].add_argument("--since", type=dt.date.fromisoformat, help="only publications since this day")
    parsers["diff"].add_argument("--with", dest="other", metavar="LAKE", help="compare with the table of another lake")
    # What follows `sql` is psql's, and argparse would take its options for ours.
    own, others = (arguments[:1], arguments[1:]) if arguments[:1] == ["sql"] else (arguments, [])
    given = parser.parse_args(own)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if settings().log_format == "json":
        from etl_assets.stages.logger import JsonLines

        logging.getLogger().handlers[0].setFormatter(JsonLines())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if given.command not in ("down", "dictionary", "doctor"):
        embedded.up()
    match given.command:
        case "run":
            from etl_assets.local.run import run

            return run(given.datasets, anew=given.anew)
        case "ui":
            return _ui(given.port)
        case "sql":
            return _sql(others)
        case "publish":
            for source, date in embedded.publish(given.date).items():
                print(f"{source}: {date}")
        case "clean":
            _clean(dry_run=given.dry_run)
        case "diff":
            from etl_assets.local.diff import diff

            return diff(given.table, given.since, given.other)
        case "doctor":
            from etl_assets.local.doctor import doctor

            return doctor()
        case "rebuild-warehouse":
            from etl_assets.local.rebuild import rebuild_warehouse

            return rebuild_warehouse()
        case "dictionary":
            from etl_assets.local.dictionary import write_dictionary

            write_dictionary()
        case "down":
            embedded.down()
    return 0


def _ui(port: int) -> int:
    """Take this process over with `dagster dev`, which serves the UI and runs the daemon."""
    if explicit_settings().dagster_storage_url is None:
        _bury_the_dead()
    print(f"UI: http://127.0.0.1:{port}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    # Somewhere else, people open it at an address that is configured.
    os.environ.setdefault("ETL_DAGSTER_UI_URL", f"http://127.0.0.1:{port}")
    # A sensor waits as long for its source as the settings say; Dagster alone would break it off after a minute.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "600")
    # What a script starts in the background ignores SIGINT, and Dagster then ignores SIGTERM too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The workspace, so that wherever this is called from, sensors go on from what they know under the same name.
    where = ["--log-format", "json"] if settings().log_format == "json" else []
    where += ["--workspace", str(PROJECT / "workspace.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    # Dagster would rather be started by `dg dev`, which starts this same command beneath itself.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    os.execv(sys.executable, [sys.executable, *quiet, "-m", "dagster", "dev", *where])


def _bury_the_dead() -> None:
    """Runs of a UI that was killed do not stay "started" for hours, with all that waits for them: they start again.

    Dagster itself has nobody left to tell how they ended: the server that started them went with the UI.
    """
    import dagster as dg

    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
            server = json.loads(run.tags.get(".dagster/grpc_info", "{}")).get("socket")
            if server and not _is_served(server):
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                instance.report_run_failed(run, "The UI that started it was killed.")


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def _clean(*, dry_run: bool) -> None:
    """Delete what is older than it is kept, or say what that is."""
    import dagster as dg

    import etl_assets.definitions  # noqa: F401 the datasets register themselves
    from etl_assets.automation.housekeeping import clean

    with dg.DagsterInstance.get() as instance:
        for found in clean(instance, dry_run=dry_run):
            print(f"{found.count:,} {found.what} {'would be' if dry_run else 'were'} deleted")


def _sql(arguments: Sequence[str]) -> int:
    """Take this process over with psql: a statement is run, anything else is psql's own.

    It reads everything and changes nothing, unless `--write` comes first: then it is the pipeline's own role.
    """
    writes = arguments[:1] == ["--write"]
    role, arguments = (roles.WRITER, arguments[1:]) if writes else (roles.INSPECTOR, arguments)
    psql, environment = embedded.cluster().psql()
    # By the environment: what stands on a command line, every user of the machine can read.
    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    address = conninfo_to_dict(settings().warehouse())
    for name, value in address.items():
        if variable := variables.get(name):
            environment[variable.decode()] = str(value)
    options = ["search_path=presentation,refined,raw,public"]
    options += [] if writes else ["default_transaction_read_only=on"]
    with warehouse().connect(role=None) as connection:
        options += [f"role={role}"] if roles.take(connection, role) else []
    environment["PGOPTIONS"] = " ".join([str(address.get("options") or ""), *(f"-c {option}" for option in options)])
    given = list(arguments)
    if given and not given[0].startswith("-"):
        given = ["-v", "ON_ERROR_STOP=1", "-c", given[0], *given[1:]]
    os.execvpe(psql, [psql, *given], environment)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (NotConfiguredError, RuntimeError, OSError, ValueError) as error:
        sys.exit(f"./dev: {error}")
