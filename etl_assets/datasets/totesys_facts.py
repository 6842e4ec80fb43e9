"""The facts of ToteSys's star schema: what was sold, bought and paid, version by version."""

import polars as pl

from etl_assets.datasets.totesys import DATASET, TABLES, Payment, PurchaseOrder, SalesOrder
from etl_assets.datasets.totesys_dimensions import (
    DimCounterparty,
    DimCurrency,
    DimDate,
    DimDesign,
    DimLocation,
    DimPaymentType,
    DimStaff,
    DimTransaction,
)
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import presentation
from etl_assets.storage.hashes import row_text, text_hash
from etl_assets.storage.table import Partitioning


def _place(table: str, record_id: str) -> dict[str, object]:
    return {
        "stage": "presentation",
        "table": table,
        "key": [record_id],
        "partitioning": Partitioning("created_date", "month"),
    }


def _facts(history: pl.DataFrame, contract: type[Contract]) -> pl.DataFrame:
    """Every version as a row; its id follows from its content, so that batches in any order give the same ids.

    A version that came back after another had replaced it is distinguished by how often it was there before.
    """
    [record_id] = contract.place().key
    own = [c for c in history.columns if c not in ("valid_from", "valid_to", "is_current") and not c.startswith("_")]
    texts = history.select(row_text(own)).to_series().rename("text")
    nth = pl.DataFrame([texts, history["valid_from"]]).select(pl.col("valid_from").rank("ordinal").over("text"))
    keys = text_hash(texts + "#" + nth.to_series().cast(pl.String)) // 2  # a bigint has a sign
    created, updated = pl.col("created_at"), pl.col("last_updated")
    rows = history.with_columns(
        keys.cast(pl.Int64).alias(record_id),
        created_date=created.dt.date(),
        created_time=created.dt.time(),
        last_updated_date=updated.dt.date(),
        last_updated_time=updated.dt.time(),
    )
    return rows.select(list(contract.columns()))


class FactSalesOrder(Contract, **_place("fact_sales_order", "sales_record_id")):
    """Sales: every version of every order is a row. For the orders as they are now, see refined.totesys_sales_order."""

    sales_record_id: pl.Int64 = column("Id of the version; computed from its content, so it never changes", ge=0)
    sales_order_id: pl.Int64 = column("Order")
    created_date: pl.Date = column("When the order was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was last changed", references=DimDate)
    last_updated_time: pl.Time = column("At what time of day")
    sales_staff_id: pl.Int64 = column("Who sold it", references=DimStaff)
    counterparty_id: pl.Int64 = column("Who bought it", references=DimCounterparty)
    units_sold: pl.Int64 = column("Units", unit="totes")
    unit_price: pl.Decimal(10, 2) = column("Price of a unit", unit="the order's currency")
    currency_id: pl.Int64 = column("Currency of the price", references=DimCurrency)
    design_id: pl.Int64 = column("Design that is sold", references=DimDesign)
    agreed_payment_date: pl.Date = column("When it is to be paid", references=DimDate)
    agreed_delivery_date: pl.Date = column("When it is to be delivered", references=DimDate)
    agreed_delivery_location_id: pl.Int64 = column("Where it is to be delivered", references=DimLocation)


@presentation(DATASET, FactSalesOrder, sales=TABLES[SalesOrder].history)
def presentation_fact_sales_order(sales: pl.DataFrame) -> pl.DataFrame:
    """An order that was changed keeps its old row and gets another one."""
    return _facts(sales.rename({"staff_id": "sales_staff_id"}), FactSalesOrder)


class FactPurchaseOrder(Contract, **_place("fact_purchase_order", "purchase_record_id")):
    """Purchases: every version of every order is a row."""

    purchase_record_id: pl.Int64 = column("Id of the version; computed from its content, so it never changes", ge=0)
    purchase_order_id: pl.Int64 = column("Order")
    created_date: pl.Date = column("When the order was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was last changed", references=DimDate)
    last_updated_time: pl.Time = column("At what time of day")
    staff_id: pl.Int64 = column("Who ordered it", references=DimStaff)
    counterparty_id: pl.Int64 = column("Who it was ordered from", references=DimCounterparty)
    item_code: pl.String = column("Code of the item")
    item_quantity: pl.Int64 = column("Number of items", unit="items")
    item_unit_price: pl.Decimal(10, 2) = column("Price of an item", unit="the order's currency")
    currency_id: pl.Int64 = column("Currency of the price", references=DimCurrency)
    agreed_delivery_date: pl.Date = column("When it is to be delivered", references=DimDate)
    agreed_payment_date: pl.Date = column("When it is to be paid", references=DimDate)
    agreed_delivery_location_id: pl.Int64 = column("Where it is to be delivered", references=DimLocation)


@presentation(DATASET, FactPurchaseOrder, purchases=TABLES[PurchaseOrder].history)
def presentation_fact_purchase_order(purchases: pl.DataFrame) -> pl.DataFrame:
    """As for sales."""
    return _facts(purchases, FactPurchaseOrder)


class FactPayment(Contract, **_place("fact_payment", "payment_record_id")):
    """Payments: every version of every payment is a row."""

    payment_record_id: pl.Int64 = column("Id of the version; computed from its content, so it never changes", ge=0)
    payment_id: pl.Int64 = column("Payment")
    created_date: pl.Date = column("When the payment was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was last changed", references=DimDate)
    last_updated_time: pl.Time = column("At what time of day")
    transaction_id: pl.Int64 = column("What is paid", references=DimTransaction)
    counterparty_id: pl.Int64 = column("Who pays or is paid", references=DimCounterparty)
    payment_amount: pl.Decimal(14, 2) = column("Amount", unit="the payment's currency")
    currency_id: pl.Int64 = column("Currency of the amount", references=DimCurrency)
    payment_type_id: pl.Int64 = column("Kind of payment", references=DimPaymentType)
    paid: pl.Boolean = column("Whether it was paid")
    payment_date: pl.Date = column("When it is due, or was paid", references=DimDate)


@presentation(DATASET, FactPayment, payments=TABLES[Payment].history)
def presentation_fact_payment(payments: pl.DataFrame) -> pl.DataFrame:
    """As for sales."""
    return _facts(payments, FactPayment)
