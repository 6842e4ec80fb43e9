"""`./dev` as a person uses it: commands one after another, in one house with everything embedded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import requests

from etl_assets.local.postgres import Cluster
from etl_assets.local.source_process import SourceServer
from etl_assets_tests.held import held_at_table
from etl_assets_tests.local.commands import Dev


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """A house of its own, with nothing in it."""
    clone = Dev(tmp_path, {"ETL_SAMPLE_AS_OF": "2025-03-05"})
    yield clone
    clone.do("down")


@pytest.mark.long
def test_the_commands_do_what_they_say_one_after_another(dev: Dev) -> None:
    """One test, since every step goes on from what the one before has left."""
    two_runs_at_once_do_the_work_once(dev)
    a_run_with_nothing_new_makes_nothing_and_says_what_there_is(dev)
    sql_answers_a_statement(dev)
    the_retail_companys_sources_are_there(dev)
    a_source_that_fails_is_named_and_nothing_is_lost(dev)
    a_published_correction_is_run_for_the_days_that_differ(dev)
    two_dagster_runs_of_a_partition_at_once_do_not_corrupt_it(dev)
    the_password_is_told_to_nobody(dev)
    down_stops_what_was_started_and_the_next_command_goes_on(dev)


def home(dev: Dev) -> Path:
    return dev.folder / "home"


def cluster(dev: Dev) -> Cluster:
    return Cluster(home(dev) / "postgres")


def count(dev: Dev, query: str, database: str = "warehouse") -> int:
    with psycopg.connect(cluster(dev).url(database)) as connection:
        [[found]] = connection.execute(query.encode()).fetchall()
        return int(found)


def runs(dev: Dev) -> int:
    return count(dev, "SELECT count(*) FROM runs", "dagster")


def two_runs_at_once_do_the_work_once(dev: Dev) -> None:
    for command in [dev.start("run", "protest_events"), dev.start("run", "protest_events")]:
        code, printed = command.finish()
        assert code == 0, printed
    assert count(dev, "SELECT count(*) FROM refined.protest_events") == 431
    assert count(dev, "SELECT count(DISTINCT event_id) FROM refined.protest_events") == 431
    landings = "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %s"
    assert count(dev, landings.replace("%s", """'["landing", "protest_events"]'"""), "dagster") == 1
    assert count(dev, "SELECT count(*) FROM runs WHERE status <> 'SUCCESS'", "dagster") == 0


def a_run_with_nothing_new_makes_nothing_and_says_what_there_is(dev: Dev) -> None:
    before = runs(dev)
    for_another_server = {"PGSSLMODE": "require", "PGOPTIONS": "-c default_transaction_read_only=on"}
    code, printed = replace(dev, settings={**dev.settings, **for_another_server}).do("run", "protest_events")
    assert code == 0, printed
    assert "The sources have nothing new, everything is up to date" in printed
    assert re.search(r"^refined\.protest_events +431 +\d+ +4 *$", printed, re.MULTILINE), printed
    assert runs(dev) == before


def sql_answers_a_statement(dev: Dev) -> None:
    code, printed = dev.do("sql", "SELECT count(*) AS events FROM eventdata")
    assert code == 0
    assert "431" in printed
    code, printed = dev.do("sql", "SELECT nonsense")
    assert code != 0
    assert 'column "nonsense" does not exist' in printed
    code, printed = dev.do("sql", "DELETE FROM refined.protest_events")
    assert code != 0
    assert "cannot execute DELETE in a read-only transaction" in printed
    service = home(dev) / "services"
    service.write_text("[prod]\ndbname=postgres\n")
    elsewhere = replace(dev, settings={**dev.settings, "PGSERVICE": "prod", "PGSERVICEFILE": str(service)})
    assert elsewhere.do("sql", "-At", "-c", "SELECT current_database()")[1].strip().endswith("warehouse")


def the_retail_companys_sources_are_there(dev: Dev) -> None:
    local = json.loads((home(dev) / "local.json").read_text())
    assert [path.name for path in Path(local["retail_sales_folder"]).iterdir()] == ["sales_data.csv"]
    with psycopg.connect(local["retail_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM transactions").fetchone() == (240,)
    customers = f"{local['local_sources_url']}/retail/customers"
    for token, status in ((local["retail_token"], 200), ("another", 401)):
        assert requests.get(customers, headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code == status


def a_source_that_fails_is_named_and_nothing_is_lost(dev: Dev) -> None:
    broken = replace(dev, settings={**dev.settings, "ETL_PROTEST_EVENTS_URL": "http://127.0.0.1:9/ccc.csv?key=s3cret"})
    code, printed = broken.do("run", "protest_events")
    assert code == 1
    assert "failed landing/protest_events: http://127.0.0.1:9/ccc.csv could not be fetched" in printed
    assert "Not everything is up to date" in printed
    assert "s3cret" not in printed
    assert count(dev, "SELECT count(*) FROM refined.protest_events") == 431


def a_published_correction_is_run_for_the_days_that_differ(dev: Dev) -> None:
    versions = [json.loads((home(dev) / "local.json").read_text())["local_versions"]]
    for date in ("2025-11-09", "2025-04-04"):
        code, printed = dev.do("publish", date)
        assert code == 0
        versions.append(json.loads((home(dev) / "local.json").read_text())["local_versions"])
    assert versions[0] == versions[2]
    assert {name for name in versions[0] if versions[0][name] != versions[1][name]} == {"who_gho"}
    assert "protest_events: 2025-04-04" in printed
    code, printed = dev.do("run", "protest_events")
    assert code == 0, printed
    assert re.search(r"protest_events: \d+ partitions changed, \d+ unchanged", printed)
    assert re.search(r"^raw\.protest_events: added the column issues \(text\)$", printed, re.MULTILINE), printed
    assert count(dev, "SELECT count(*) FROM refined.protest_events") == 697


def two_dagster_runs_of_a_partition_at_once_do_not_corrupt_it(dev: Dev) -> None:
    tables = ("refined.protest_events", "presentation.eventdata")
    with psycopg.connect(cluster(dev).url("warehouse")) as connection:
        query = "SELECT partition FROM etl.publications WHERE asset = %s ORDER BY rows DESC, partition LIMIT 1"
        ((day,),) = connection.execute(query, (tables[0],)).fetchall()
        # As if that day had never been published: both runs have all the work to do.
        connection.execute(
            "DELETE FROM etl.publications WHERE partition = %s AND asset <> 'raw.protest_events'", (day,)
        )
    before = [count(dev, f"SELECT count(*) FROM {table}") for table in tables]
    at_home = replace(dev, settings={**dev.settings, "DAGSTER_HOME": str(home(dev) / "dagster")})
    selection = " or ".join(f'key:"{table.replace(".", "/")}"' for table in tables)
    materialize = ("asset", "materialize", "-m", "etl_assets.definitions", "--select", selection, "--partition", day)
    with held_at_table(cluster(dev).url("warehouse"), tables[0]) as wait:
        both = [at_home.start(*materialize, module="dagster") for _ in range(2)]
        wait(2, lambda: all(command.is_running() for command in both))
    for command in both:
        code, printed = command.finish()
        assert code == 0, printed[-3000:]
    assert [count(dev, f"SELECT count(*) FROM {table}") for table in tables] == before
    for table in tables:
        written = f"SELECT count(DISTINCT _run_id) FROM {table} WHERE event_date = '{day}'"
        assert count(dev, written) == 1, "the second found the first one's work done"
        assert count(dev, f"SELECT count(*) - count(DISTINCT event_id) FROM {table}") == 0
    code, printed = dev.do("run", "protest_events")
    assert "nothing new" in printed, printed


def the_password_is_told_to_nobody(dev: Dev) -> None:
    password = (home(dev) / "postgres" / "password").read_text()
    assert dev.do("rebuild-warehouse")[0] == 0
    unreachable = f"postgresql://etl:{password}@127.0.0.1:9/warehouse"
    broken = replace(dev, settings={**dev.settings, "ETL_WAREHOUSE_URL": unreachable})
    code, printed = broken.do("run", "protest_events")
    assert code != 0
    assert "The warehouse at 127.0.0.1:9/warehouse cannot be reached" in printed
    token = json.loads((home(dev) / "local.json").read_text())["retail_token"]
    printed = [command.output.read_text() for command in dev.commands]
    assert not [text for text in printed if password in text or token in text]
    for table, column in (("event_logs", "event"), ("runs", "run_body")):
        found = f"SELECT count(*) FROM {table} WHERE strpos({column}::text, '{password}') > 0"
        assert count(dev, found, "dagster") == 0, table
    told = [path for path in home(dev).rglob("*") if path.is_file() and "data" not in path.relative_to(home(dev)).parts]
    holders = {
        str(path.relative_to(home(dev)))
        for path in told
        if any(secret.encode() in path.read_bytes() for secret in (password, token))
    }
    assert holders <= {"local.json", "postgres/password", "sources/token"}
    assert all((home(dev) / name).stat().st_mode & 0o077 == 0 for name in holders), "for their owner only"


def down_stops_what_was_started_and_the_next_command_goes_on(dev: Dev) -> None:
    assert dev.do("down")[0] == 0
    assert not cluster(dev).is_running()
    assert not SourceServer(home(dev) / "sources").is_running()
    assert dev.do("down")[0] == 0, "and again"
    code, printed = dev.do("sql", "-At", "-c", "SELECT count(*) FROM refined.protest_events")
    assert (code, printed.strip().splitlines()[-1]) == (0, "697")
