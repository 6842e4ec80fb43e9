"""The sample of the retail company: its five sources, small and made up, with the dirt of the real ones.

Here: sales with dates in three forms and products that no table has; prices, stocks and amounts that are negative or
have the noise of a binary fraction; values that are missing, blank or "Unknown"; rates that contradict each other. Not
here: writing the files (sample/__init__.py).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from etl_assets.local.sample.files import Row, csv_bytes

_DAYS = tuple(date(2022, 1, 1) + timedelta(days=number) for number in range(366))


def retail_files() -> dict[str, bytes]:
    """The retail company's five sources: a file, two answers of its API, and two tables of its database.

    The products of the sales are not in the products' table; every other reference is to a row that exists.
    """
    rng = random.Random(20220101)  # noqa: S311 - repeatable is what is wanted
    products = [_product(rng, number) for number in range(1, 61)]
    transactions = [_transaction(rng, number, products) for number in range(1, 241)]
    sales = [_sale(rng, number) for number in range(1, 241)]
    rates = [_rate(rng) for _ in range(400)]
    rates.append(dict(rates[0]))  # one that comes twice
    return {
        "retail/products.csv": csv_bytes(list(products[0]), products),
        "retail/transactions.csv": csv_bytes(list(transactions[0]), transactions),
        "retail/sales_data.csv": csv_bytes(list(sales[0]), sales, "\r\n"),
        "retail/customer_data.json": _json([_customer(rng, number) for number in range(1, 81)]),
        "retail/exchange_rates.json": _json(rates),
    }


def _product(rng: random.Random, number: int) -> Row:
    price = rng.uniform(-20, 0) if number % 11 == 0 else rng.uniform(5, 200)
    return {
        "Product_ID": str(number),
        "Product_Name": f"Product_{number}",
        "Category": rng.choice(("Lamps", "Maps", "Kites", "Clocks")),
        "Price": str(round(price, 2)),
        "Stock_Available": str(-rng.randrange(1, 10) if number % 29 == 0 else rng.randrange(1000)),
    }


def _transaction(rng: random.Random, number: int, products: Sequence[Row]) -> Row:
    product, quantity = rng.choice(products), rng.randrange(1, 11)
    price = round(rng.uniform(-20, 200), 2)
    return {
        "Transaction_ID": str(number),
        "Customer_ID": str(rng.randrange(1, 81)),
        "Product_ID": product["Product_ID"],
        "Quantity": str(quantity),
        "Transaction_Date": "" if number % 31 == 0 else str(rng.choice(_DAYS)),
        # Computed in binary, as by the source: 3 * 80.15 is 240.45000000000002. Some are at the product's price.
        "Total_Amount": "" if number % 23 == 0 else str(quantity * (float(product["Price"]) if number % 4 else price)),
    }


def _sale(rng: random.Random, number: int) -> Row:
    day = rng.choice(_DAYS)
    price = -rng.uniform(0, 50) if rng.random() < 0.25 else rng.uniform(1, 150)
    return {
        "Transaction_ID": str(number),
        "Product_ID": str(rng.randrange(1001, 1006)),
        "Quantity": {37: "-1", 74: "0", 111: "1000"}.get(number % 120, str(rng.randrange(1, 11))),
        "Price": "" if number % 23 == 0 else str(round(price, 2)),
        # Three forms: a slash is DD/MM, a dash MM-DD.
        "Transaction_Date": "" if number % 31 == 0 else rng.choice((f"{day}", f"{day:%d/%m/%Y}", f"{day:%m-%d-%Y}")),
    }


def _customer(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "Customer_ID": number,
        "Customer_Name": rng.choice(("Ada Birch", "Otto Reed", "Mina Vale", "Ivo Stone")),
        "Age": None if number % 20 == 0 else rng.randrange(15, 100),
        "Gender": rng.choice(("Female", "Male", "Non-binary", "")),
        "Location": rng.choice(("Ohio", "Hawaii", "Texas", "Unknown", "Alaska", "")),
        "Date_Joined": "" if number % 40 == 0 else str(date(2020, 1, 1) + timedelta(days=rng.randrange(366))),
    }


def _rate(rng: random.Random) -> dict[str, Any]:
    """A rate on one of a few days, so that some days have several; it may be missing, negative or without its day."""
    return {
        "Currency_Code": rng.choice(("USD", "EUR", "GBP", "JPY", "AUD")),
        "Exchange_Rate": None if rng.random() < 0.05 else round(rng.uniform(-0.5, 1.5), 4),
        "Date": "" if rng.random() < 0.03 else str(rng.choice(_DAYS[::3])),
    }


def _json(rows: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=4).encode()
