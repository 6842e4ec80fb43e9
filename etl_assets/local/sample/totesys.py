"""The sample of ToteSys: two days of a small made-up company, in the shape and with the dirt of the real database.

Here: one file per table and day, as JSON lines on the first (without payments) and as Parquet on the second. Times of
change do not rise with the key, many rows share one, payments change after they were created, designs change without
saying so, and whole numbers with gaps are recorded as floats. Not here: writing the files (sample/__init__.py).
"""

from __future__ import annotations

import io
import json
import random
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from etl_assets.local.sample.files import gzipped

FIRST, SECOND = "2024-11-14", "2024-11-15"
SALES, PURCHASES = 120, 50
#: What the second day brings: orders of each kind, designs that are moved without a word, orders that are changed.
NEW, MOVED_DESIGNS, CHANGED_SALES = 6, (3, 7), (11, 12)

Row = dict[str, Any]
_START = datetime(2024, 9, 2, 9, 0)  # noqa: DTZ001 - as the source has it: without a zone
_BULK = "2024-10-01T12:00:00.500000"
_COUNTRIES = ("Norway", "Chile", "Kenya", "Fiji", "Latvia")


def totesys_files() -> dict[str, bytes]:
    """The files by name."""
    first, second = _days()
    files = {
        f"totesys/{FIRST}/{table}.jsonl.gz": gzipped("\n".join(map(json.dumps, rows)).encode())
        for table, rows in first.items()
        if table != "payment"
    }
    for table, rows in second.items():
        frame = pl.DataFrame(rows, infer_schema_length=None)
        times = [pl.col(c).str.to_datetime(time_unit="ns") for c in ("created_at", "last_updated")]
        gaps = [
            pl.col(c).cast(pl.Float64) for c in frame.columns if frame.schema[c].is_integer() and frame[c].null_count()
        ]
        sink = io.BytesIO()
        frame.with_columns(*times, *gaps).write_parquet(sink)
        files[f"totesys/{SECOND}/{table}.parquet"] = sink.getvalue()
    return files


def _days() -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    rng = random.Random(20241114)  # noqa: S311 - repeatable is what is wanted
    begun = {"created_at": _at(0), "last_updated": _at(0)}
    small: dict[str, list[Row]] = {
        "address": [
            {"address_id": n, "address_line_1": f"{n} Tote Street", "address_line_2": None if n % 3 else "Back door",
             "district": None if n % 2 else "Mill", "city": f"Port {n}", "postal_code": f"0{n:04}",
             "country": _COUNTRIES[n % 5], "phone": f"0{n:03} 555", **begun}
            for n in range(1, 13)
        ],
        "counterparty": [
            {"counterparty_id": n, "counterparty_legal_name": f'Bag "{n}" & Sons', "legal_address_id": n,
             "commercial_contact": f"Ann {n}", "delivery_contact": None if n == 4 else f"Ben {n}", **begun}
            for n in range(1, 9)
        ],
        "currency": [{"currency_id": n, "currency_code": c, **begun} for n, c in enumerate(("GBP", "USD", "EUR"), 1)],
        "department": [
            {"department_id": n, "department_name": name, "location": "Leeds", "manager": f"Cat {n}", **begun}
            for n, name in enumerate(("Sales", "Purchasing", "Dispatch"), 1)
        ],
        "staff": [
            {"staff_id": n, "first_name": f"Dee {n}", "last_name": "Oh'Lee", "department_id": n % 3 + 1,
             "email_address": f"dee.{n}@totes.example", **begun}
            for n in range(1, 8)
        ],
        "design": [_design(n) for n in range(1, 21)],
        "payment_type": [
            {"payment_type_id": n, "payment_type_name": name, **begun}
            for n, name in enumerate(("SALES_RECEIPT", "SALES_REFUND", "PURCHASE_PAYMENT", "PURCHASE_REFUND"), 1)
        ],
    }  # fmt: skip
    sales = [_order(rng, n, SALES) for n in range(1, SALES + NEW + 1)]
    purchases = [_purchase(rng, n, PURCHASES) for n in range(1, PURCHASES + NEW + 1)]
    orders = [("SALE", n) for n in range(1, SALES + NEW + 1)] + [("PURCHASE", n) for n in range(1, PURCHASES + NEW + 1)]
    rng.shuffle(orders)
    orders.sort(key=lambda order: order[1] > (SALES if order[0] == "SALE" else PURCHASES))
    transactions = [_transaction(n, kind, order, sales, purchases) for n, (kind, order) in enumerate(orders, 1)]
    payments = [_payment(rng, row, sales, purchases) for row in transactions]
    old = len(transactions) - 2 * NEW
    first = small | {
        "sales_order": sales[:SALES],
        "purchase_order": purchases[:PURCHASES],
        "transaction": transactions[:old],
    }
    moved = [row | {"file_location": "/moved"} if row["design_id"] in MOVED_DESIGNS else row for row in small["design"]]
    changed = [
        row | {"units_sold": row["units_sold"] + 1, "last_updated": _at(75 * 24)}
        if row["sales_order_id"] in CHANGED_SALES else row
        for row in sales
    ]  # fmt: skip
    second = small | {
        "design": [*moved, _design(21, 74 * 24)],
        "sales_order": changed,
        "purchase_order": purchases,
        "transaction": transactions,
        "payment": payments,
    }
    return first, second


def _at(hours: float) -> str:
    return (_START + timedelta(hours=hours, milliseconds=186)).isoformat(timespec="microseconds")


def _moment(rng: random.Random, number: int, last: int) -> str:
    """When a row was written: in the weeks before the first day, a third of them at one moment; or between the days."""
    if number > last:
        return _at(73.5 * 24 + number % 7)
    return _BULK if number % 3 == 0 else _at(rng.randrange(70 * 24))


def _design(number: int, hours: int = 0) -> Row:
    return {
        "design_id": number, "created_at": _at(hours), "design_name": ("Linen", "Wooden", "Rubber")[number % 3],
        "file_location": "/usr", "file_name": f"design-{number}.json", "last_updated": _at(hours),
    }  # fmt: skip


def _order(rng: random.Random, number: int, last: int) -> Row:
    moment = _moment(rng, number, last)
    return {
        "sales_order_id": number, "created_at": moment, "last_updated": moment, "design_id": rng.randint(1, 20),
        "staff_id": rng.randint(1, 7), "counterparty_id": rng.randint(1, 8), "units_sold": rng.randint(1_000, 99_999),
        "unit_price": rng.randint(200, 400) / 100, "currency_id": rng.randint(1, 3),
        "agreed_delivery_date": moment[:10], "agreed_payment_date": moment[:10],
        "agreed_delivery_location_id": rng.randint(1, 12),
    }  # fmt: skip


def _purchase(rng: random.Random, number: int, last: int) -> Row:
    moment = _moment(rng, number, last)
    return {
        "purchase_order_id": number, "created_at": moment, "last_updated": moment, "staff_id": rng.randint(1, 7),
        "counterparty_id": rng.randint(1, 8), "item_code": f"IT{number:04}", "item_quantity": rng.randint(1, 999),
        "item_unit_price": rng.randint(100, 99_999) / 100, "currency_id": rng.randint(1, 3),
        "agreed_delivery_date": moment[:10], "agreed_payment_date": moment[:10],
        "agreed_delivery_location_id": rng.randint(1, 12),
    }  # fmt: skip


def _transaction(number: int, kind: str, order: int, sales: list[Row], purchases: list[Row]) -> Row:
    of = (sales if kind == "SALE" else purchases)[order - 1]
    return {
        "transaction_id": number, "transaction_type": kind,
        "sales_order_id": order if kind == "SALE" else None,
        "purchase_order_id": order if kind == "PURCHASE" else None,
        "created_at": of["created_at"], "last_updated": of["created_at"],
    }  # fmt: skip


def _payment(rng: random.Random, transaction: Row, sales: list[Row], purchases: list[Row]) -> Row:
    sale = transaction["sales_order_id"]
    of = sales[sale - 1] if sale else purchases[transaction["purchase_order_id"] - 1]
    amount = of["units_sold"] * of["unit_price"] if sale else of["item_quantity"] * of["item_unit_price"]
    is_paid = rng.random() < 0.6
    return {
        "payment_id": transaction["transaction_id"], "created_at": of["created_at"],
        "last_updated": _at(72 * 24 + rng.randrange(40)) if is_paid else of["created_at"],
        "transaction_id": transaction["transaction_id"], "counterparty_id": of["counterparty_id"],
        "payment_amount": round(amount, 2), "currency_id": of["currency_id"], "payment_type_id": 1 if sale else 3,
        "paid": is_paid, "payment_date": of["agreed_payment_date"], "company_ac_number": rng.randint(10**7, 10**8),
        "counterparty_ac_number": rng.randint(10**7, 10**8),
    }  # fmt: skip
