"""ToteSys: from a real database to its star schema, over two days, in any order, and on its bad days."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from etl_assets.local.rebuild import rebuild_warehouse
from etl_assets.local.sample.totesys import CHANGED_SALES, FIRST, MOVED_DESIGNS, NEW, SALES, SECOND
from etl_assets.sources.database import BATCH_FORMAT
from etl_assets.stages import history
from etl_assets_tests.automation.test_conditions import Daemon
from etl_assets_tests.automation.test_sensors import look
from etl_assets_tests.contents import bookkeeping, differences, lake_agrees_with_warehouse, rows
from etl_assets_tests.house import House

GROWING = ("sales_order", "purchase_order", "transaction", "payment")


def opened(house: House, day: str) -> str:
    house.datasets = ["totesys"]
    house.publish(day)
    return house.open_database("totesys")


def run(house: House) -> None:
    assert house.run(), house.failures()


def source(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """What the last of some statements gives in the source, whose counters are told at once."""
    with psycopg.connect(url) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement.encode())
        answer = cursor.fetchall() if cursor.description else []
        connection.execute("SELECT pg_stat_force_next_flush()")
    return answer


def read(url: str) -> dict[str, int]:
    """Rows that the source has read of its large tables, by its own statistics."""
    query = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
    return {name: count for name, count in source(url, query) if name in GROWING}


TOTALS = {
    "month": "to_char(sales_order.created_at, 'YYYY-MM')",
    "design": "design_name || ' (' || design_id || ')'",
    "currency": "currency_code",
    "country": "country",
    "total": "'all'",
}


def totals_are_those_of_the_source(house: House, url: str) -> None:
    joined = (
        "sales_order JOIN design USING (design_id) JOIN currency USING (currency_id)"
        " JOIN address ON address_id = agreed_delivery_location_id"
    )
    for question, item in TOTALS.items():
        expected = source(url, f"SELECT {item}, count(*), sum(units_sold) FROM {joined} GROUP BY 1")
        query = "SELECT item, orders, units_sold FROM presentation.sales_questions WHERE question = %s"
        assert sorted(house.sql(query, question)) == sorted(expected), question
    money = "SELECT currency_id, sum(units_sold * unit_price) FROM {} GROUP BY 1 ORDER BY 1"
    assert house.sql(money.format("refined.totesys_sales_order")) == source(url, money.format("sales_order"))


def the_star_holds(house: House) -> None:
    declared = house.sql("SELECT count(*), bool_and(convalidated) FROM pg_constraint WHERE contype = 'f'")
    assert declared == [(9 + 8 + 7, True)]
    assert house.value("SELECT count(*) FROM quarantine.totesys_sales_order") == 0


@pytest.mark.shared
@pytest.mark.long
def test_the_recording_over_two_days(shared_house: House) -> None:
    house = shared_house
    url = opened(house, FIRST)
    run(house)
    assert house.value("SELECT count(*) FROM presentation.fact_sales_order") == 11_175
    assert house.value("SELECT count(*) FROM presentation.fact_payment") == 0
    totals_are_those_of_the_source(house, url)
    house.publish(SECOND)
    before = read(url)
    run(house)
    seen = {name: count - before[name] for name, count in read(url).items()}
    # The changed rows, those at the watermark, and the newest times, which are looked up.
    assert seen["sales_order"] <= 12 + 5
    assert seen["purchase_order"] <= 9 + 5
    assert seen["transaction"] <= 21 + 5
    assert house.value("SELECT count(*) FROM presentation.fact_sales_order") == 11_187
    assert house.value("SELECT count(*) FROM presentation.fact_payment") == 15_836
    versions = "SELECT design_id, count(*) FROM refined.totesys_design_history GROUP BY 1 HAVING count(*) > 1"
    assert sorted(count for _, count in house.sql(versions)) == [2, 2, 2]
    totals_are_those_of_the_source(house, url)
    the_star_holds(house)
    run(house)
    assert house.made() == {}


@pytest.mark.long
def test_history_and_star_of_the_sample(house: House) -> None:
    url = opened(house, FIRST)
    run(house)
    first_ids = dict(house.sql("SELECT sales_order_id, sales_record_id FROM presentation.fact_sales_order"))
    house.publish(SECOND)
    run(house)
    totals_are_those_of_the_source(house, url)
    the_star_holds(house)
    versions = "SELECT {0}_id, count(*) FROM refined.totesys_{0}_history GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"
    assert house.sql(versions.format("design")) == [(n, 2) for n in MOVED_DESIGNS]
    assert house.sql(versions.format("sales_order")) == [(n, 2) for n in CHANGED_SALES]
    one = "SELECT valid_to IS NULL, is_current, units_sold FROM refined.totesys_sales_order_history"
    old, new = house.sql(f"{one} WHERE sales_order_id = 11 ORDER BY valid_from")
    assert (old[:2], new[:2]) == ((False, False), (True, True))
    assert new[2] == old[2] + 1
    meet = (
        "SELECT count(*) FROM refined.totesys_sales_order_history a JOIN refined.totesys_sales_order_history b"
        " USING (sales_order_id) WHERE a.valid_to = b.valid_from"
    )
    assert house.value(meet) == len(CHANGED_SALES)
    facts = house.sql("SELECT sales_order_id, sales_record_id FROM presentation.fact_sales_order")
    assert len(facts) == SALES + NEW + len(CHANGED_SALES)
    assert first_ids.items() <= set(facts)
    assert (
        house.value("SELECT currency_name FROM presentation.dim_currency WHERE currency_code = 'GBP'")
        == "Pound sterling"
    )
    event = house.instance.get_latest_materialization_event(dg.AssetKey(["presentation", "sales_questions"]))
    assert event is not None
    assert event.asset_materialization is not None
    charts = [v.value for v in event.asset_materialization.metadata.values() if "data:image/png" in str(v.value)]
    assert len(charts) == 5
    batches_in_any_order_give_the_same(house)
    the_warehouse_is_made_again_with_its_foreign_keys(house)


def batches_in_any_order_give_the_same(house: House) -> None:
    """The first batch arrives after the second, and then once more under another name."""
    expected = rows(house)
    booked = {place: told for place, told in bookkeeping(house).items() if told[0]}
    lake = Path(house.lake.url)
    landing = lake / "landing" / "totesys"
    first, second = sorted(path for path in landing.glob("*/*") if path.is_dir())
    late = lake.parent / first.name
    first.rename(late)
    current = json.loads((landing / "current.json").read_text())
    current["files"] = {n: {b: h for b, h in f.items() if b != first.name} for n, f in current["files"].items()}
    (landing / "current.json").write_text(json.dumps(current))
    for stage in ("raw", "refined", "presentation", "quarantine"):
        shutil.rmtree(lake / stage, ignore_errors=True)
    for schema in ("raw", "refined", "presentation", "quarantine", "etl"):
        with psycopg.connect(house.warehouse_url) as connection:
            connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
    house.run()  # the orders refer to designs that have not come yet
    assert house.value("SELECT count(*) FROM refined.totesys_sales_order") < SALES
    late.rename(first)
    house.materialize("landing/totesys")
    run(house)
    assert differences(expected, rows(house)) == []
    assert {place: told for place, told in bookkeeping(house).items() if told[0]} == booked

    moment = datetime.strptime(second.name, BATCH_FORMAT).replace(tzinfo=UTC)
    copy = (moment + timedelta(microseconds=1)).strftime(BATCH_FORMAT)
    shutil.copytree(second, second.with_name(copy))
    manifest = second.with_name(copy) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(second.name, copy))
    house.materialize("landing/totesys")
    run(house)
    again = rows(house)
    changed = differences(expected, again)
    assert all(name.startswith("raw") for name in changed), changed
    assert len(changed) > 0
    assert lake_agrees_with_warehouse(house, house.lake)


def the_warehouse_is_made_again_with_its_foreign_keys(house: House) -> None:
    expected = rows(house)
    rebuild_warehouse()
    assert differences(expected, rows(house)) == []
    assert house.value("SELECT to_regclass('quarantine.totesys_design_history')") is None, "a run makes none"
    the_star_holds(house)
    run(house)
    assert house.made() == {}


@pytest.mark.long
def test_a_batch_is_a_partition_of_its_day(house: House) -> None:
    """The daemon asks for the days of what has come, as late as it may come, and a range of days is made at will."""
    url = opened(house, FIRST)
    run(house)
    landing = Path(house.lake.url) / "landing" / "totesys"
    (batch,) = (path for path in landing.glob("*/*") if path.is_dir())
    today, earlier = batch.name[:10], "2024-11-14"
    designs = dg.AssetKey(["raw", "totesys_design"])
    assert house.instance.get_materialized_partitions(designs) == {today}

    late = landing / earlier / f"{earlier}{batch.name[10:]}"
    shutil.copytree(batch, late)
    (late / "manifest.json").write_text((late / "manifest.json").read_text().replace(batch.name, late.name))
    house.materialize("landing/totesys")
    daemon = Daemon(house)
    asked = daemon.tick()
    assert asked == {f"raw/totesys_{path.stem}": {earlier} for path in late.glob("*.parquet")}
    daemon.make(asked)
    assert house.instance.get_materialized_partitions(designs) == {earlier, today}
    run(house)
    since = "SELECT DISTINCT valid_from::date::text FROM refined.totesys_design_history"
    assert house.sql(since) == [(earlier,)], "what today's batch says is what was known already"
    house.materialize("raw/totesys_design", "2024-11-10", "2024-11-20")
    run(house)
    assert house.made() == {}, "a backfill over days of which nothing has changed"
    assert lake_agrees_with_warehouse(house, house.lake)

    never = landing / "2021-06-01" / f"2021-06-01{batch.name[10:]}"
    shutil.copytree(batch, never)
    (never / "manifest.json").write_text((never / "manifest.json").read_text().replace(batch.name, never.name))
    with pytest.raises(dg.Failure, match=f"the day of the batch {never.name} is in none of the dataset's partit"):
        house.materialize("landing/totesys")
    never.rename(never.with_name("2021-06-01T09"))
    (never.with_name("2021-06-01T09") / "manifest.json").write_text((batch / "manifest.json").read_text())
    with pytest.raises(dg.Failure, match="2021-06-01T09/ does not have the name of a batch"):
        house.materialize("landing/totesys")
    shutil.rmtree(never.parent)
    what_a_batch_brought_goes_with_it(house, url, landing / today)


def what_a_batch_brought_goes_with_it(house: House, url: str, day: Path) -> None:
    """Whichever of the blocks of its day others have rows of; the first of these has orders of two blocks."""

    def land(statement: str) -> None:
        source(url, statement)
        house.materialize("landing/totesys")
        house.materialize("raw/totesys_sales_order", day.name)

    land(
        "INSERT INTO sales_order SELECT 250000, created_at, now(), design_id, staff_id, counterparty_id, units_sold,"
        " unit_price, currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id"
        " FROM sales_order WHERE sales_order_id = 1"
    )
    orders = "SELECT _batch, count(*) FROM raw.totesys_sales_order GROUP BY 1"
    before = dict(house.sql(orders))
    land("UPDATE sales_order SET last_updated = now() WHERE sales_order_id = 1")
    last = max(path for path in day.iterdir())
    assert dict(house.sql(orders)).keys() - before.keys() == {last.name}
    shutil.rmtree(last)
    current = day.parent / "current.json"
    manifest = json.loads(current.read_text())
    manifest["files"] = {n: {b: h for b, h in f.items() if b != last.name} for n, f in manifest["files"].items()}
    current.write_text(json.dumps(manifest))
    house.materialize("raw/totesys_sales_order", day.name)
    assert dict(house.sql(orders)) == before
    current.unlink()  # lost, as by a copy that was cut off: the batches themselves are still there
    house.materialize("landing/totesys")
    assert json.loads(current.read_text())["files"]["sales_order"].keys() > before.keys()


@pytest.mark.long
def test_rows_that_break_the_contract_wait_in_quarantine(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    url = opened(house, SECOND)
    run(house)
    source(
        url,
        "ALTER TABLE sales_order DROP CONSTRAINT sales_order_design_id_fkey",
        "ALTER TABLE sales_order ALTER units_sold TYPE text",
        "INSERT INTO sales_order SELECT 900, created_at, now(), 777, staff_id, counterparty_id, units_sold, unit_price,"
        " currency_id, agreed_delivery_date, agreed_payment_date, agreed_delivery_location_id"
        " FROM sales_order WHERE sales_order_id = 1",
        "UPDATE sales_order SET units_sold = 'a dozen', last_updated = now() WHERE sales_order_id = 2",
        "UPDATE sales_order SET unit_price = 1.005, last_updated = now() WHERE sales_order_id = 3",
        "UPDATE sales_order SET agreed_delivery_date = '31/02/2024', last_updated = now() WHERE sales_order_id = 4",
        "UPDATE sales_order SET agreed_payment_date = '24-11-05', last_updated = now() WHERE sales_order_id = 6",
        "ALTER TABLE staff ADD pronoun text",
    )
    before = dict(house.sql("SELECT sales_order_id, units_sold FROM refined.totesys_sales_order"))
    assert isinstance(look(house, "totesys_source"), dg.RunRequest)
    run(house)
    assert "Nothing new" in str(look(house, "totesys_source"))
    kept_out = "SELECT (record::json->>'sales_order_id')::int, split_part(reason, ';', 1)"
    reasons = dict(house.sql(f"{kept_out} FROM quarantine.totesys_sales_order"))
    assert reasons == {
        900: "references: design_id is 777",
        2: "readable: units_sold is a dozen",
        3: "readable: unit_price is 1.005",
        4: "readable: agreed_delivery_date is 31/02/2024",
        6: "readable: agreed_payment_date is 24-11-05",
    }
    assert dict(house.sql("SELECT sales_order_id, units_sold FROM refined.totesys_sales_order")) == before
    drift = house.check("raw/totesys_staff", "columns")
    assert (drift.passed, drift.description) == (False, "pronoun is new")
    # What was referred to arrives, and what could not be read is mended: they leave quarantine.
    source(
        url,
        "INSERT INTO design SELECT 777, created_at, 'Late', file_location, file_name, now() FROM design LIMIT 1",
        "UPDATE sales_order SET unit_price = 1.5, last_updated = now() WHERE sales_order_id = 3",
    )
    run(house)
    assert house.value("SELECT design_name FROM presentation.fact_sales_order JOIN presentation.dim_design"
                       " USING (design_id) WHERE sales_order_id = 900") == "Late"  # fmt: skip
    assert house.value("SELECT unit_price FROM refined.totesys_sales_order WHERE sales_order_id = 3") == Decimal("1.50")
    query = "SELECT count(*) FROM quarantine.totesys_sales_order WHERE reason LIKE 'references%'"
    assert house.value(query) == 0

    # A deleted row is history; what was sold of a deleted design was sold.
    source(url, "DELETE FROM payment WHERE payment_id = 1", "ALTER TABLE sales_order RENAME units_sold TO sold")
    assert not house.run()
    assert "database totesys, table sales_order: required columns are missing: ['units_sold']" in house.failures()
    source(url, "ALTER TABLE sales_order RENAME sold TO units_sold")
    run(house)
    gone = "SELECT is_current, valid_to IS NOT NULL FROM refined.totesys_payment_history WHERE payment_id = 1"
    assert house.sql(gone) == [(False, True)]
    assert house.value("SELECT count(*) FROM refined.totesys_payment WHERE payment_id = 1") == 0
    assert house.value("SELECT count(*) FROM presentation.fact_payment WHERE payment_id = 1") == 1

    # A table that is filled anew is empty for a while.
    source(url, "CREATE TABLE kept AS TABLE payment", "TRUNCATE payment")
    assert not house.run()
    assert re.search(
        r"postgresql://[^@]*, table payment: (.*) of \1 rows are gone, it shrank by more than 50%", house.failures()
    )
    source(url, "INSERT INTO payment TABLE kept")
    run(house)
    twice = (
        "SELECT count(*) FROM (SELECT FROM refined.totesys_payment_history GROUP BY payment_id HAVING count(*) > 1) t"
    )
    assert house.value(twice) == 0

    # Too many at once are no accident: the block keeps its last good state.
    source(url, "UPDATE sales_order SET unit_price = -1, last_updated = now()")
    assert not house.run()
    assert "rows break the contract" in house.failures()
    assert house.value("SELECT min(unit_price) FROM refined.totesys_sales_order") > 0
    source(url, "UPDATE sales_order SET unit_price = 2, units_sold = 5, last_updated = now()")
    run(house)
    mended = (
        "SELECT DISTINCT unit_price, units_sold FROM refined.totesys_sales_order WHERE sales_order_id NOT IN (4, 6)"
    )
    assert house.sql(mended) == [(2, 5)]

    # Of a small table, all may be: none of its blocks has too many.
    source(
        url,
        "ALTER TABLE department ALTER last_updated TYPE timestamptz",
        "UPDATE department SET department_name = department_name || ' (new)'",
    )
    run(house)
    said = r"totesys_department_history: quarantine: the newest record of (\d+) of \1 keys is in quarantine"
    assert re.search(f"look at refined/{said}", house.printed), house.printed
    house.materialize("refined/totesys_department_history")  # which finds nothing to make
    assert not house.check("refined/totesys_department_history", "quarantine").passed

    # Nor is a block published of which a record went nowhere.
    chained = history._chained
    monkeypatch.setattr(history, "_chained", lambda *given: (chained(*given)[0], chained(*given)[1] - 1))
    source(url, "UPDATE sales_order SET units_sold = 6, last_updated = now()")
    assert not house.run()
    assert "1 records are unaccounted for. Nothing was written" in house.failures()
    assert not house.check("refined/totesys_sales_order_history", "balance").passed
    assert house.check("refined/totesys_sales_order_history", "contract").metadata["unaccounted"].value == 1
    assert house.value("SELECT units_sold FROM refined.totesys_sales_order WHERE sales_order_id = 5") == 5
