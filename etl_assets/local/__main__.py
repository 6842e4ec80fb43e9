"""The commands behind `./dev`, for everything but setting up and testing."""

from __future__ import annotations

import argparse
import datetime as dt
import errno
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import psycopg
from dotenv import load_dotenv
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from etl_assets.local import embedded, ui
from etl_assets.logs import Messages
from etl_assets.settings import NotConfiguredError, explicit_settings, home, settings
from etl_assets.storage import roles
from etl_assets.storage.configured import warehouse

COMMANDS = {
    "run": "bring every table up to date, and print what there is",
    "ui": "open the Dagster UI",
    "sql": "query the warehouse: a statement, or options of psql; changes nothing unless --write comes first",
    "publish": "let the local sources show their state as of a date",
    "clean": "delete logs and superseded landed files that are past their retention",
    "diff": "show what a table's publications changed, or how it differs from another lake's",
    "doctor": "look at everything, and say what is wrong and how to fix it",
    "rebuild-warehouse": "drop the warehouse's tables and build them again from the lake",
    "dictionary": "write docs/data_dictionary.md from the contracts",
    "up": "start the embedded default",
    "down": "stop everything that was started here",
}
#: Commands that make the local sources show what the environment names; the others leave the sources as they are.
SHOWING = ("up", "run", "ui", "publish")


def main(arguments: Sequence[str]) -> int:
    """Answer one command, and return its exit status."""
    load_dotenv(".env")  # for what reads the environment itself: ETL_HOME, AWS_…, and what is started here
    parser = argparse.ArgumentParser(prog="./dev")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    parsers["ui"].add_argument("--port", type=int, help="default: the port in ETL_DAGSTER_UI_URL")
    parsers["run"].add_argument("datasets", nargs="*", help="only these, and what they are made from (default: all)")
    parsers["run"].add_argument(
        "--anew", action="store_true", help="land these whole, whatever version their sources report"
    )
    parsers["run"].add_argument(
        "--accept-shrunk", action="store_true", help="as --anew, even if that gives much less than before"
    )
    parsers["publish"].add_argument("date")
    parsers["clean"].add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parsers["diff"].add_argument("table", help="such as refined.us_counties")
    parsers["diff"].add_argument("--since", type=dt.date.fromisoformat, help="only publications since this day")
    parsers["diff"].add_argument("--with", dest="other", metavar="LAKE", help="compare with the table of another lake")
    # What follows `sql` is psql's, and argparse would take its options for ours.
    own, others = (arguments[:1], arguments[1:]) if arguments[:1] == ["sql"] else (arguments, [])
    given = parser.parse_args(own)
    if given.command == "run" and given.accept_shrunk and not given.datasets:
        parsers["run"].error("--accept-shrunk: name the datasets whose sources you have looked at")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger().handlers[0].setFormatter(_formatter(given.command))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if given.command not in ("down", "dictionary", "doctor"):
        embedded.up(may_show=given.command in SHOWING)
    match given.command:
        case "run":
            from etl_assets.local.run import run

            return run(given.datasets, anew=given.anew or given.accept_shrunk, accept_shrunk=given.accept_shrunk)
        case "ui":
            return ui.serve(given.port or urlsplit(settings().dagster_ui_url).port or 3000)
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
            ui.end()
            embedded.down()
    return 0


def _clean(*, dry_run: bool) -> None:
    """Delete what has been kept long enough, or say what would be deleted."""
    import etl_assets.definitions  # noqa: F401 the datasets register themselves
    from etl_assets.automation.housekeeping import clean
    from etl_assets.storage.dagster_storage import dagster_instance

    with dagster_instance() as instance:
        for found in clean(instance, dry_run=dry_run):
            print(f"{found.count:,} {found.what} {'would be' if dry_run else 'were'} deleted")


def _formatter(command: str) -> logging.Formatter:
    """The format of log messages on the terminal."""
    if command == "down" or settings().log_format == "text":  # `down` works whatever the settings say
        return Messages()
    from etl_assets.automation.json_logs import JsonLines

    return JsonLines()


def _sql(arguments: Sequence[str]) -> int:
    """Replace this process with psql: a statement is run, any other arguments are passed to psql as they are.

    It reads everything and changes nothing, unless `--write` comes first: then it has the pipeline's own role.
    """
    writes = arguments[:1] == ["--write"]
    role, arguments = (roles.WRITER, arguments[1:]) if writes else (roles.INSPECTOR, arguments)
    psql, environment = shutil.which("psql"), dict(os.environ)
    if psql is None or explicit_settings().warehouse_url is None:
        psql, environment = embedded.cluster().psql()
    # Through the environment, since every user of the machine can read a command line.
    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    address = conninfo_to_dict(settings().database_url("warehouse"))
    environment.pop("PGSERVICE", None)  # which psql would rather go to than to the address
    for name, value in address.items():
        if variable := variables.get(name):
            environment[variable.decode()] = str(value)
    options = ["search_path=presentation,refined,raw,public"]
    options += [] if writes else ["default_transaction_read_only=on"]
    with warehouse().connect(role=None) as connection:
        options += [f"role={role}"] if roles.act_as(connection, role) else []
    environment["PGOPTIONS"] = " ".join([str(address.get("options") or ""), *(f"-c {option}" for option in options)])
    given = list(arguments)
    if given and (not given[0].startswith("-") or given[0].startswith("-- ")):  # a statement may begin with a comment
        given = ["-v", "ON_ERROR_STOP=1", "-c", given[0], *given[1:]]
    os.execvpe(psql, [psql, *given], environment)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\n./dev: interrupted. What is published is safe; run again to continue.", file=sys.stderr)
        sys.exit(130)
    except (NotConfiguredError, RuntimeError, OSError, ValueError, psycopg.Error) as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = (
            f". Free space for {home()}, or set ETL_HOME to another disk; `./dev doctor` says more." if is_full else ""
        )
        sys.exit(f"./dev: {error}{advice}")
