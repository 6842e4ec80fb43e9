"""The retail company's five sources end to end: every row and every cell accounted for, and no match invented."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from etl_assets.automation.housekeeping import clean
from etl_assets.datasets import (
    retail_customers,
    retail_exchange_rates,
    retail_products,
    retail_sales,
    retail_transactions,
)
from etl_assets.datasets.customers_ml import CUTOFF
from etl_assets.quality.rules import Rule
from etl_assets.storage.configured import landing_store
from etl_assets_tests.conftest import TOKEN
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

SALES = "retail_sales"
RATES = "/retail/exchange_rates"
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A source as the test reads it, by other means than the project's."""

    file: str
    #: The source's column for each of the table's.
    columns: dict[str, str]
    rules: Sequence[Rule]

    def records(self, data: Path) -> list[Row]:
        content = (data / "retail" / self.file).read_text()
        if self.file.endswith(".json"):
            return list(json.loads(content, parse_float=Decimal))
        return list(csv.DictReader(io.StringIO(content, newline="")))


SOURCES = {
    "sales": Source(
        "sales_data.csv",
        {"transaction_id": "Transaction_ID", "product_id": "Product_ID", "quantity": "Quantity", "price": "Price",
         "transaction_date": "Transaction_Date"}, retail_sales.BOOK.rules,
    ),
    "products": Source(
        "products.csv",
        {"product_id": "Product_ID", "product_name": "Product_Name", "category": "Category", "price": "Price",
         "stock_available": "Stock_Available"}, retail_products.BOOK.rules,
    ),
    "transactions": Source(
        "transactions.csv",
        {"transaction_id": "Transaction_ID", "customer_id": "Customer_ID", "product_id": "Product_ID",
         "quantity": "Quantity", "transaction_date": "Transaction_Date", "total_amount": "Total_Amount"},
        retail_transactions.BOOK.rules,
    ),
    "customers": Source(
        "customer_data.json",
        {"customer_id": "Customer_ID", "customer_name": "Customer_Name", "age": "Age", "gender": "Gender",
         "location": "Location", "date_joined": "Date_Joined"}, retail_customers.BOOK.rules,
    ),
    "exchange_rates": Source(
        "exchange_rates.json",
        {"currency_code": "Currency_Code", "rate_date": "Date", "exchange_rate": "Exchange_Rate"},
        retail_exchange_rates.BOOK.rules,
    ),
}  # fmt: skip


def the_day(text: str) -> date | None:
    """A date by its form, as SOURCES.md has it: a slash is DD/MM/YYYY, a dash MM-DD-YYYY."""
    if not text:
        return None
    if "/" in text:
        day, month, year = map(int, text.split("/"))
        return date(year, month, day)
    if re.match(r"\d{4}-", text):
        return date.fromisoformat(text)
    month, day, year = map(int, text.split("-"))
    return date(year, month, day)


def as_typed(value: Any, column: str) -> Any:
    """A source's value as the table would have it, if no rule changed it."""
    if value is None or value == "":
        return None
    if column.endswith("date") or column == "date_joined":
        return the_day(value)
    if column in ("price", "total_amount", "exchange_rate"):
        return Decimal(str(value))
    return (
        value
        if column in ("customer_name", "product_name", "category", "gender", "location", "currency_code")
        else int(value)
    )


def check_source(house: House, name: str, source: Source) -> None:
    """Rows in = rows out + quarantined + merged; every cell is the source's, or the rule says that changed it."""
    records = source.records(house.data)
    names = ", ".join(source.columns)
    rows = house.sql(f"SELECT {names}, _source_row, corrections, values_before FROM refined.retail_{name}")
    reasons = house.sql(f"SELECT checks, record FROM quarantine.retail_{name}")
    merged = len(records) - len({json.dumps(record, default=str) for record in records})
    assert house.value(f"SELECT count(*) FROM raw.retail_{name}") == len(records)
    assert len(rows) + len(reasons) + merged == len(records)
    known = {rule.name for rule in source.rules}
    assert all(known & set(checks) for checks, _ in reasons)
    for row in rows:
        found, record = dict(zip(source.columns, row, strict=False)), records[row[-3] - 1]
        changed = dict(zip(*row[-2:], strict=True))
        for column, value in found.items():
            given = as_typed(record[source.columns[column]], column)
            rules = [rule for rule in source.rules if rule.name in changed and rule.column == column]
            if not rules:
                assert value == given, (name, row, column)
            else:
                assert as_typed(changed[rules[0].name], column) == given, (name, row, column)
                assert value != given or given is None
        assert set(changed) <= known


def check_unified(house: House) -> None:
    """Matches are those that there are; rates are the last at or before the day; features are what they say."""
    matches = house.sql(
        "SELECT kind, count(*), count(*) FILTER (WHERE product_match), count(*) FILTER (WHERE customer_match)"
        " FROM presentation.unified_transactions GROUP BY 1 ORDER BY 1"
    )
    sales, transactions = (len(SOURCES[name].records(house.data)) for name in ("sales", "transactions"))
    assert matches == [("sale", sales, 0, 0), ("transaction", transactions, transactions, transactions)]
    rates = dict(
        house.sql("SELECT rate_date, exchange_rate FROM refined.retail_exchange_rates WHERE currency_code = 'USD'")
    )
    joined = dict(house.sql("SELECT customer_id, date_joined FROM refined.retail_customers"))
    rows = house.sql(
        "SELECT kind, transaction_date, rate_match, exchange_rate, rate_date, rate_age_days, month, day_of_week,"
        " customer_id, customer_tenure_days, total_amount, basket_share FROM presentation.unified_transactions"
    )
    baskets: dict[tuple[Any, Any], Decimal] = {}
    for _, day, *_, customer, _, amount, _ in rows:
        baskets[customer, day] = baskets.get((customer, day), Decimal(0)) + (amount or 0)
    for kind, day, match, rate, rate_day, age, month, weekday, customer, tenure, amount, share in rows:
        known = [then for then in rates if day and then <= day]
        assert match == bool(known)
        assert (rate, rate_day) == ((rates[max(known)], max(known)) if known else (None, None))
        assert age == ((day - rate_day).days if known else None)
        assert (month, weekday) == ((day.month, day.isoweekday()) if day else (None, None))
        since = joined.get(customer)
        assert tenure == ((day - since).days if day and since else None)
        if kind == "sale" or not day or amount is None:
            assert share is None
        else:
            assert share == pytest.approx(float(amount / baskets[customer, day]))
    medians = house.value(
        "SELECT count(*) FROM presentation.unified_transactions t JOIN (SELECT kind, product_id, percentile_cont(0.5)"
        " WITHIN GROUP (ORDER BY unit_price) AS median FROM presentation.unified_transactions GROUP BY 1, 2) m"
        " USING (kind, product_id) WHERE abs(price_to_product_median - unit_price / median) > 1e-9"
    )
    assert medians == 0
    priced = house.value(
        "SELECT count(*) FROM presentation.unified_transactions WHERE amount_matches_price IS DISTINCT FROM"
        " (total_amount = quantity * product_price)"
    )
    assert priced == 0


def check_quality(house: House) -> None:
    """The report counts what the tables have."""
    for name, source in SOURCES.items():
        found = house.sql(
            "SELECT records, rows, missing_share, duplicated_share, quarantined_share, invalid_share, corrected_share"
            " FROM presentation.retail_quality WHERE source = %s",
            name,
        )[0]
        given = source.records(house.data)
        empty = [value for row in given for value in row.values() if value is None or value in ("", "Unknown")]
        rows = house.value(f"SELECT count(*) FROM refined.retail_{name}")
        kept_out = house.value(f"SELECT count(*) FROM quarantine.retail_{name}")
        changed = [
            house.value(
                f"SELECT count(*) FROM refined.retail_{name} WHERE corrections && %s",
                [rule.name for rule in source.rules if rule.action == action],
            )
            for action in ("null", "correct")
        ]
        assert found[:2] == (len(given), rows)
        counts = (len(given) - rows - kept_out, kept_out, *changed)
        shares = [len(empty) / (len(given) * len(given[0])), *(count / len(given) for count in counts)]
        assert found[2:] == pytest.approx(shares), name


@dataclass
class Retail:
    """A house with the retail company's sources."""

    house: House
    folder: Path

    def owner(self, statement: str) -> None:
        """Do something to the database that its owner may do."""
        with psycopg.connect(self.house.open_database("retail")) as connection:
            connection.execute(statement.encode())

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file of sales."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)

    def run(self, *datasets: str) -> bool:
        """Run some datasets, and what they are made from."""
        self.house.datasets = datasets
        return self.house.run()


def open_retail(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Retail:
    """The retail company's sources as the house's recordings have them."""
    retail = Retail(house, folder)
    retail.drop("sales_data.csv", (house.data / "retail" / "sales_data.csv").read_bytes())
    monkeypatch.setenv("ETL_RETAIL_SALES_FOLDER", str(folder))
    house.open_database("retail")
    return retail


@pytest.fixture
def retail(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retail:
    """On the project's own sample."""
    return open_retail(house, tmp_path / "sales", monkeypatch)


def asked(house: House, name: str) -> str:
    """What the sensor of a source asks for now: a run, or why there is none."""
    sensor = house.definitions.resolve_sensor_def(f"retail_{name}_source")
    result = sensor(dg.build_sensor_context(instance=house.instance))
    return "a run" if isinstance(result, dg.RunRequest) else str(getattr(result, "skip_message", result))


HEADER = b"Transaction_ID,Product_ID,Quantity,Price,Transaction_Date\r\n"


def lines(first: int, last: int, line: str = "{n},1001,2,9.50,2022-05-05") -> bytes:
    return b"".join(line.format(n=n).encode() + b"\r\n" for n in range(first, last + 1))


def test_every_row_and_cell_is_accounted_for(retail: Retail) -> None:
    """One run of everything; then the database changes: what follows from it is made anew, and no feature knows it."""
    house = retail.house
    assert retail.run("unified_transactions", "customers_ml", "retail_quality"), house.failures()
    for name, source in SOURCES.items():
        check_source(house, name, source)
    check_unified(house)
    check_quality(house)
    told = house.instance.get_latest_materialization_event(retail_sales.refined_retail_sales.key)
    assert told is not None
    assert told.asset_materialization is not None
    rules: Any = told.asset_materialization.metadata["rules"].value
    counts = {row.data["rule"]: row.data["rows"] for row in rules.records}
    prices = [row["Price"] for row in SOURCES["sales"].records(house.data)]
    assert counts["price is negative"] == sum(price.startswith("-") for price in prices)
    assert house.sql("SELECT DISTINCT quantity FROM refined.retail_sales WHERE quantity_is_outlier") == [(1000,)]
    assert house.run(), house.failures()
    assert not house.made()

    for name in SOURCES:
        assert "Nothing new" in asked(house, name), name
    retail.drop("more.csv", HEADER + lines(1001, 1002))
    (house.data / "retail" / "customer_data.json").write_text(
        json.dumps(SOURCES["customers"].records(house.data), indent=1)
    )
    retail.owner("UPDATE products SET price = price + 1 WHERE product_id = 1")
    assert {name for name in SOURCES if asked(house, name) == "a run"} == {"sales", "customers", "products"}
    (retail.folder / "more.csv").unlink()
    retail.owner("UPDATE products SET price = price - 1 WHERE product_id = 1")
    assert "Nothing new" in asked(house, "products")
    retail.owner("ALTER TABLE products RENAME price TO unit_price")
    assert asked(house, "products") == "a run"
    retail.owner("ALTER TABLE products RENAME unit_price TO price")

    features = house.frame("presentation.customers_ml")
    assert set(features["buys"]) == {True, False}
    file = house.data / "retail" / "transactions.csv"
    rows = SOURCES["transactions"].records(house.data)
    for row in rows:
        if row["Transaction_Date"] >= str(CUTOFF) or not row["Transaction_Date"]:
            row.update(Customer_ID="1", Quantity="7", Total_Amount="")
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue())
    house.open_database("retail")
    assert house.run(), house.failures()
    made = {name for name in house.made() if not name.startswith("landing/")}
    assert made == {
        "raw/retail_transactions", "refined/retail_transactions", "presentation/unified_transactions",
        "presentation/customers_ml", "presentation/retail_quality",
    }  # fmt: skip
    now = house.frame("presentation.customers_ml")
    assert now.drop("buys", "spends").equals(features.drop("buys", "spends"))
    assert now.filter("buys")["customer_id"].to_list() == [1]


#: Files that are broken as a whole, and what is said of them.
BROKEN = {
    "empty.csv": (b"", "has no header"),
    "header only.csv": (HEADER, "it has a header but no records"),
    "semicolons.csv": (
        (HEADER + lines(2001, 2100)).replace(b",", b";"),
        "its fields are separated by ';', but the dataset expects ','",
    ),
    "other prices.csv": (
        HEADER + lines(2101, 2200, '{n},1001,2,"1.234,50",2022-05-05'),
        "100 of 100 records cannot be read, such as record 1: price is '1.234,50'",
    ),
    "trailing commas.csv": (
        HEADER + lines(2201, 2300, "{n},1001,2,9.50,2022-05-05,"),
        "100 of 100 records cannot be read, such as record 1: the record is '2201,1001,2,9.50,2022-05-05,'",
    ),
    "other columns.csv": (b"Id,Price\r\n1,2\r\n", "required columns are missing: ['Transaction_ID'"),
    "open quote.csv": (HEADER + lines(2301, 2310, '{n},1001,2,"9.50,2022-05-05'), "5 of 5 records cannot be read"),
}
#: Records that are wrong in a file that is not, and why they are kept out.
WRONG = {
    '3001,1001,2,9.50,13/13/2022': "readable: transaction_date is 13/13/2022",
    '3002,1001,2,"1.234,50",2022-05-05': "readable: price is 1.234,50",
    "3003,1001,2,1.234,50,2022-05-05": "fields: the row is 3003,1001,2,1.234,50,2022-05-05",
    "3004,1001,2,9.50,2022-05-05,": "fields: the row is 3004,1001,2,9.50,2022-05-05,",
    '3005,1001,2,"9\n50",2022-05-05': "readable: price is 9\n50",
    "3006,1001,2,9.50,05.06.2022": "readable: transaction_date is 05.06.2022",
    "x,1001,2,9.50,2022-05-05": "readable: transaction_id is x",
    "3008,1001,2,1e3,2022-05-05": "readable: price is 1e3",
    "3009,1001,2,9.555,2022-05-05": "readable: price is 9.555",
    "3010,1001,2.5,9.50,2022-05-05": "readable: quantity is 2.5",
    "1,1001,2,1.00,2022-01-01": "transaction_id is of several records: transaction_id is 1",
}  # fmt: skip


def test_files_that_are_dropped(retail: Retail, caplog: pytest.LogCaptureFixture) -> None:
    """Each is taken once, whatever it is called; those that are broken or not finished keep no other back."""
    house, count = retail.house, "SELECT count(*) FROM refined.retail_sales"
    assert retail.run(SALES), house.failures()
    first = house.value(count)

    retail.drop("a name that nobody knew", b"\xef\xbb\xbf" + HEADER + lines(1001, 1010))
    for name, (content, _) in BROKEN.items():
        retail.drop(name, content)
    os.utime(retail.folder / "empty.csv", (0, 0))  # not a file that is about to be written
    retail.drop("later/unfinished.csv", HEADER + lines(1101, 1110)[:-9])  # was written to just now
    retail.drop(".hidden.csv", HEADER + lines(1201, 1210))
    retail.drop("download.csv.part", HEADER + lines(1201, 1210))
    assert house.run(), house.failures()
    assert house.value(count) == first + 10
    assert "later/unfinished.csv is not taken yet: its last line has no end" in caplog.text
    assert house.value("SELECT count(DISTINCT _source_sha256) FROM raw.retail_sales") == 2
    for name, (_, why) in BROKEN.items():
        assert re.search(f"{SALES}: {re.escape(name)} was not taken. .*{re.escape(why)}", house.printed), (
            name,
            house.printed,
        )
    check = house.check(f"landing/{SALES}", "files")
    assert not check.passed
    assert str(check.severity) == "AssetCheckSeverity.WARN"
    os.utime(retail.folder / "later/unfinished.csv")  # is being written to still
    assert house.run()
    assert not house.made()  # what is broken is not tried again and again
    assert "semicolons.csv was not taken" in house.printed  # but it is said again

    # The same bytes under another name, and what had not been finished.
    os.utime(retail.folder / "later/unfinished.csv")
    retail.drop("copy of sales.csv", (retail.folder / "sales_data.csv").read_bytes())
    assert house.run(), house.failures()
    assert set(house.made()) == {f"landing/{SALES}"}
    retail.drop("later/unfinished.csv", HEADER + lines(1101, 1110))
    assert house.run(), house.failures()
    assert house.value(count) == first + 20

    # A file that is replaced under its name; one that is moved away stays as it was landed.
    retail.drop("a name that nobody knew", HEADER + lines(1001, 1008, "{n},1002,3,1.00,2022-06-06"))
    (retail.folder / "sales_data.csv").unlink()
    (retail.folder / "copy of sales.csv").unlink()
    for name in BROKEN:
        (retail.folder / name).unlink()
    assert house.run(), house.failures()
    assert house.value(count) == first + 18
    assert house.sql(
        "SELECT DISTINCT product_id FROM refined.retail_sales WHERE transaction_id > 1000 AND transaction_id < 1100"
    ) == [(1002,)]
    assert "was not taken" not in house.printed
    landed = landing_store(SALES)
    manifest = landed.current()
    assert manifest is not None
    assert {own.url for own in landed.members(manifest)} >= {f"{retail.folder}/later/unfinished.csv"}
    clean(house.instance, dry_run=False, now=datetime.now(UTC) + timedelta(days=4000))
    assert len(landed.members(manifest)) == 3  # what is in the set is needed, however old it is
    assert len(list(landed.manifests())) == 4

    # Anew, what is in the folder is what there is; a fragment keeps no other back.
    retail.drop("later/unfinished.csv", HEADER + lines(1101, 1103))
    retail.drop("one more.csv", HEADER + lines(1201, 1204))
    assert house.run(), house.failures()
    assert "later/unfinished.csv was not taken. It has" in house.printed
    assert house.value(count) == first + 22
    retail.drop("a name that nobody knew", HEADER + lines(1001, 1004)[:-9])  # is being uploaded again
    assert house.run(anew=True), house.failures()
    assert house.value(count) == 8 + 10 + 4
    assert house.run(anew=True, accept_shrunk=True), house.failures()
    assert house.value(count) == 8 + 3 + 4
    retail.drop("later/unfinished.csv", HEADER + lines(1101, 1110))
    retail.drop("sales_data.csv", (house.data / "retail" / "sales_data.csv").read_bytes())
    (retail.folder / "one more.csv").unlink()
    assert house.run(anew=True), house.failures()
    assert house.value(count) == first + 18

    # Records that are wrong are kept out with the reason.
    retail.drop("wrong.csv", HEADER + lines(4001, 4060) + "\r\n".join([*WRONG, ""]).encode())
    assert house.run(), house.failures()
    reasons = [reason for (reason,) in house.sql(f"SELECT reason FROM quarantine.{SALES}")]
    for wrong, why in WRONG.items():
        assert any(reason.startswith(why) or f"; {why}" in reason for reason in reasons), (wrong, reasons)
    assert len(reasons) == len(WRONG) + 1  # the number that two records have is neither's
    assert house.value(count) == first + 18 + 60 - 1


def test_the_token_and_answers_that_are_wrong(retail: Retail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told with what to do, and an extract that was cut off goes on with the page that it lacks."""
    house, name = retail.house, "retail_exchange_rates"
    monkeypatch.setenv("ETL_RETAIL_TOKEN", "wrong-and-secret")
    assert not retail.run(name)
    assert re.search(r"/retail/exchange_rates does not accept the token in ETL_RETAIL_TOKEN", house.failures())
    assert "wrong-and-secret" not in house.failures() + house.printed
    monkeypatch.setenv("ETL_RETAIL_TOKEN", TOKEN)
    house.faults.add(RATES, Fault.status(401), query={"page": "2"})  # it expires after the first page
    assert not house.run()
    assert "ETL_RETAIL_TOKEN" in house.failures()
    assert len(landing_store(name).pages()) == 1
    for _ in range(2):
        house.faults.add(RATES, Fault.changed(lambda body: body[:-20]), query={"page": "3"})
        assert not house.run()
        assert f"{name}: exchange_rates, page 3: the answer is not complete JSON" in house.failures()
    assert house.run(), house.failures()
    asked = Counter(entry.query for entry in house.faults.log if entry.path == RATES and entry.method == "GET")
    assert {query: asked[query] for query in asked} == {
        f"page={n}&page_size=200": times for n, times in ((1, 1), (2, 2), (3, 3))
    }
    assert all(entry.headers.get("authorization") == "***" for entry in house.faults.log if entry.path == RATES)
    check_source(house, "exchange_rates", SOURCES["exchange_rates"])
    house.faults.add(RATES, Fault.changed(lambda _: b"[]"), query={"page": "1"})  # whole, and not to be taken
    assert not house.run(anew=True)
    assert "it shrank by more than 50%" in house.failures()
    assert house.run(anew=True), house.failures()  # which does not go on with the page that was refused
    check_source(house, "exchange_rates", SOURCES["exchange_rates"])


def test_what_is_merged_is_double_and_not_kept_out(retail: Retail) -> None:
    """It is written in another way, so the records are not equal to the letter."""
    house = retail.house
    retail.drop("more.csv", HEADER + lines(9001, 9010) + lines(9001, 9005, "{n},1001,2.0,9.5,2022-05-05"))
    first = SOURCES["customers"].records(house.data)[0] | {"Age": 40, "Location": "Texas"}
    unknown = [
        first | {"Customer_ID": n, "Location": where} for n, where in ((2, "Unknown"), (3, "")) for _ in range(2)
    ]
    unread = [first | {"Customer_ID": n, "Location": where, "Age": "x"} for n, where in ((4, "Unknown"), (5, ""))]
    (house.data / "retail" / "customer_data.json").write_text(
        json.dumps([first | {"Customer_ID": 1}, *unknown, *unread])
    )
    assert retail.run("retail_quality"), house.failures()
    missing = "SELECT round(records * 6 * missing_share), records, rows FROM presentation.retail_quality"
    assert house.sql(f"{missing} WHERE source = 'customers'") == [(6, 7, 3)], "merged and kept out ones count, too"
    kept_out = house.value(f"SELECT count(*) FROM quarantine.{SALES}")
    merged = house.check(f"refined/{SALES}", "balance").metadata["merged"].value
    assert merged >= 5
    shares = (
        "SELECT round(records * duplicated_share), round(records * quarantined_share) FROM presentation.retail_quality"
    )
    assert house.sql(f"{shares} WHERE source = 'sales'") == [(merged, kept_out)]


def test_a_number_of_something_else_costs_its_row_and_no_table(retail: Retail) -> None:
    house, barcode = retail.house, "{n},1001,4006381333931,250.00,2022-05-05"
    retail.drop("more.csv", HEADER + lines(9001, 9010) + lines(9011, 9011, barcode))
    retail.owner("UPDATE transactions SET total_amount = 12345678901234.56 WHERE transaction_id = 7")
    retail.owner("UPDATE transactions SET quantity = 1234567890 WHERE transaction_id = 8")
    assert retail.run("unified_transactions"), house.failures()
    kept = "SELECT checks FROM quarantine.{} WHERE record::json->>'{}' = ANY(%s) ORDER BY row_id"
    sold = house.sql(kept.format("retail_sales", "Transaction_ID"), ["9011"])
    assert sold == [(["price makes an amount beyond all"],)]
    found = house.sql(kept.format("retail_transactions", "transaction_id"), ["7", "8"])
    assert {checks[0] for (checks,) in found} == {
        "total_amount is beyond all amounts",
        "quantity is beyond all quantities",
    }


def test_a_database_that_does_not_do_as_it_should(retail: Retail, monkeypatch: pytest.MonkeyPatch) -> None:
    house, name = retail.house, "retail_products"
    assert retail.run(name), house.failures()
    before = house.frame("refined.retail_products")
    retail.owner("UPDATE products SET stock_available = -1 WHERE product_id = 7")  # no column tells of it
    assert house.run(), house.failures()
    assert house.sql("SELECT stock_available, corrections FROM refined.retail_products WHERE product_id = 7") == [
        (None, ["stock_available is negative"])
    ]
    retail.owner("ALTER TABLE products ADD colour text; ALTER TABLE products DROP price")
    assert not house.run()
    assert "required columns are missing: ['price']. It has: ['product_id', 'product_name'" in house.failures()
    retail.owner("REVOKE SELECT ON products FROM etl_source_reader")
    assert not house.run()
    assert re.search(r"The database retail .* does not let the role .* read: permission denied", house.failures())
    monkeypatch.setenv("ETL_RETAIL_URL", "postgresql://someone:secret-word@127.0.0.1:1/retail")
    assert not house.run()
    assert "The database retail (127.0.0.1:1/retail) cannot be read" in house.failures()
    assert "that ETL_RETAIL_URL is right" in house.failures()
    assert "secret-word" not in house.failures() + house.printed
    assert house.frame("refined.retail_products").height == before.height


@pytest.mark.shared
def test_the_recording(shared_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house, retail = shared_house, open_retail(shared_house, tmp_path / "sales", monkeypatch)
    assert retail.run("unified_transactions", "retail_quality"), house.failures()
    for name, source in SOURCES.items():
        check_source(house, name, source)
        assert house.value(f"SELECT count(*) FROM raw.retail_{name}") == 1000
    check_unified(house)
    check_quality(house)
    forms = Counter(re.sub(r"\d", "9", row["Transaction_Date"]) for row in SOURCES["sales"].records(house.data))
    assert forms == {"9999-99-99": 309, "99/99/9999": 346, "99-99-9999": 314, "": 31}


def test_a_dropped_file_may_go_back_to_what_it_was(retail: Retail) -> None:
    """However much smaller it is: that was no fragment then."""
    for last in (1004, 1100, 1004):
        retail.drop("more.csv", HEADER + lines(1001, last))
        assert retail.run(SALES), retail.house.failures()
        found = "SELECT max(transaction_id) FROM refined.retail_sales WHERE transaction_id > 1000"
        assert retail.house.value(found) == last


def test_a_file_that_was_moved_away_and_taken_back_may_come_back(retail: Retail, tmp_path: Path) -> None:
    """It is the same to the stamp, and is landed again all the same."""
    house, sold = retail.house, "SELECT count(*) FROM refined.retail_sales WHERE transaction_id > 1000"
    retail.drop("more.csv", HEADER + lines(1001, 1004))
    assert retail.run(SALES), house.failures()
    (retail.folder / "more.csv").rename(tmp_path / "more.csv")
    assert house.run(anew=True), house.failures()
    assert house.value(sold) == 0
    (tmp_path / "more.csv").rename(retail.folder / "more.csv")
    assert house.run(), house.failures()
    assert house.value(sold) == 4
