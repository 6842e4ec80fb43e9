"""Customers of the retail company, from its API."""

from pathlib import Path

import polars as pl

from etl_assets.quality.audit import Bound
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.readings import date_by_form, whole
from etl_assets.quality.rules import Rule, Rulebook, ambiguous, by_rules, corrections, summary, values_before
from etl_assets.sources.extracts import read_pages
from etl_assets.sources.retail import DATES, NOTHING, RetailApi, records
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="retail_customers",
    title="Retail: customers",
    publisher="the retail company",
    homepage="",
    licence="none stated",
    citation="Retail company, customer API",
    cadence="whenever a customer is added or changed",
    bound=Bound(share=0.25),
)

OLDEST = 120
BOOK = Rulebook(
    required=("Customer_ID", "Customer_Name", "Age", "Gender", "Location", "Date_Joined"),
    nothing=NOTHING,
    readings={
        "customer_id": ("Customer_ID", whole(pl.col("Customer_ID"))),
        "customer_name": ("Customer_Name", pl.col("Customer_Name").str.strip_chars()),
        "age": ("Age", whole(pl.col("Age"))),
        "gender": ("Gender", pl.col("Gender").str.strip_chars()),
        "location": ("Location", pl.col("Location").str.strip_chars()),
        "date_joined": ("Date_Joined", date_by_form(pl.col("Date_Joined"), DATES)),
    },
    rules=(
        ambiguous("customer_id", "Nothing says which of them is right."),
        *(
            Rule(
                name, "is blank", pl.col(name).str.strip_chars() == "", "missing",
                "The API leaves missing values blank.",
            )
            for name in ("customer_name", "gender", "location")
        ),
        Rule("location", "is Unknown", pl.col("location") == "Unknown", "missing", "It means that no place is known."),
        Rule("age", "is of no person", ~pl.col("age").is_between(0, OLDEST), "null", "Nobody has that age."),
    ),
)  # fmt: skip


class RetailCustomers(Contract, stage="refined", table="retail_customers", key=["customer_id"]):
    """Customers as they are now, one row per customer."""

    customer_id: pl.Int64 = column("Number of the customer")
    customer_name: pl.String = column("Name; not unique", nullable=True)
    age: pl.Int64 = column("Age as last reported", unit="years", nullable=True, ge=0, le=OLDEST)
    gender: pl.String = column("Gender as stated by the customer", nullable=True)
    location: pl.String = column("State of the United States", nullable=True)
    date_joined: pl.Date = column("Day on which the customer joined", nullable=True)
    corrections: pl.List(pl.String) = corrections()
    values_before: pl.List(pl.String) = values_before()


landing_retail_customers = landing(DATASET, RetailApi(path="customers"))


@raw(DATASET, landing_retail_customers, required=BOOK.required)
def raw_retail_customers(path: Path) -> pl.DataFrame:
    """The records of all pages, every value a text."""
    return read_pages(path, records)


@refined(DATASET, RetailCustomers, raw=raw_retail_customers)
def refined_retail_customers(raw: pl.DataFrame) -> Result:
    """Typed, by the rules; records that say the same are merged."""
    table, merged = by_rules(raw, BOOK)
    return Result(table, merged, {"rules": summary(table, BOOK.rules)})
