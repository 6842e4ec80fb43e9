"""The star schema of ToteSys: what was sold, bought and paid, with the dimensions to ask by, and five questions."""

import polars as pl

from etl_assets.datasets.totesys import (
    DATASET,
    TABLES,
    Address,
    Counterparty,
    Currency,
    Department,
    Design,
    Payment,
    PaymentType,
    PurchaseOrder,
    SalesOrder,
    Staff,
    Transaction,
)
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Of, Result, presentation
from etl_assets.stages.pictures import bars, lines
from etl_assets.storage.frames import row_text, text_hash
from etl_assets.storage.table import Partitioning

#: The currencies of ISO 4217 that a company in Europe trades in; another one is named by its code until it stands here.
CURRENCY_NAMES = {
    "GBP": "Pound sterling", "USD": "US dollar", "EUR": "Euro", "CHF": "Swiss franc", "JPY": "Yen", "CAD": "Canadian "
    "dollar", "AUD": "Australian dollar", "NZD": "New Zealand dollar", "SEK": "Swedish krona", "NOK": "Norwegian krone",
    "DKK": "Danish krone", "PLN": "Zloty", "CZK": "Czech koruna", "HUF": "Forint", "CNY": "Yuan renminbi",
    "INR": "Indian rupee", "ZAR": "Rand", "BRL": "Brazilian real", "MXN": "Mexican peso", "SGD": "Singapore dollar",
}  # fmt: skip


def _last(history: pl.DataFrame, key: str) -> pl.DataFrame:
    """The last version of every key that was ever seen: what a fact has referred to stays, gone or not."""
    return history.sort(key, "valid_from").unique(key, keep="last", maintain_order=True)


# Dimensions ----------------------------------------------------------------------------------------------


class DimDate(Contract, stage="presentation", table="dim_date", key=["date_id"]):
    """Days: all of the years in which anything was created, and the others that a fact names."""

    date_id: pl.Date = column("Day")
    year: pl.Int32 = column("Year", unit="year")
    month: pl.Int8 = column("Month", ge=1, le=12)
    day: pl.Int8 = column("Day of the month", ge=1, le=31)
    day_of_week: pl.Int8 = column("Day of the week; Monday is 1", ge=1, le=7)
    day_name: pl.String = column("Name of the day of the week")
    month_name: pl.String = column("Name of the month")
    quarter: pl.Int8 = column("Quarter", ge=1, le=4)


_ORDER_DATES = ["created_at", "last_updated", "agreed_delivery_date", "agreed_payment_date"]


@presentation(
    DATASET,
    DimDate,
    sales=Of(TABLES[SalesOrder].history, _ORDER_DATES),
    purchases=Of(TABLES[PurchaseOrder].history, _ORDER_DATES),
    payments=Of(TABLES[Payment].history, ["created_at", "last_updated", "payment_date"]),
)
def presentation_dim_date(sales: pl.DataFrame, purchases: pl.DataFrame, payments: pl.DataFrame) -> pl.DataFrame:
    """Dates of a wild year do not fill the years up to it."""
    facts = (sales, purchases, payments)
    named = pl.concat([f[c].cast(pl.Date).rename("date_id") for f in facts for c in f.columns]).unique()
    years = pl.concat([f["created_at"].dt.year() for f in facts]).unique()
    calendar = [pl.date_range(pl.date(y, 1, 1), pl.date(y, 12, 31), eager=True).rename("date_id") for y in years]
    day = pl.col("date_id")
    return pl.DataFrame(pl.concat([named, *calendar]).unique().sort()).select(
        "date_id",
        year=day.dt.year(),
        month=day.dt.month(),
        day=day.dt.day(),
        day_of_week=day.dt.weekday(),
        day_name=day.dt.strftime("%A"),
        month_name=day.dt.strftime("%B"),
        quarter=day.dt.quarter(),
    )


class DimStaff(Contract, stage="presentation", table="dim_staff", key=["staff_id"]):
    """Staff with their departments."""

    staff_id: pl.Int64 = column("Key")
    first_name: pl.String = column("First name")
    last_name: pl.String = column("Last name")
    department_name: pl.String = column("Department")
    location: pl.String = column("Where the department is", nullable=True)
    email_address: pl.String = column("Address of e-mail")


@presentation(DATASET, DimStaff, staff=TABLES[Staff].history, departments=TABLES[Department].history)
def presentation_dim_staff(staff: pl.DataFrame, departments: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    known = _last(departments, "department_id").select("department_id", "department_name", "location")
    return _last(staff, "staff_id").join(known, on="department_id").select(list(DimStaff.columns()))


class DimLocation(Contract, stage="presentation", table="dim_location", key=["location_id"]):
    """Addresses, as places of delivery."""

    location_id: pl.Int64 = column("Key: the address's")
    address_line_1: pl.String = column("First line")
    address_line_2: pl.String = column("Second line", nullable=True)
    district: pl.String = column("District", nullable=True)
    city: pl.String = column("City")
    postal_code: pl.String = column("Postal code")
    country: pl.String = column("Country")
    phone: pl.String = column("Telephone number")


@presentation(DATASET, DimLocation, addresses=TABLES[Address].history)
def presentation_dim_location(addresses: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    renamed = _last(addresses, "address_id").rename({"address_id": "location_id"})
    return renamed.select(list(DimLocation.columns()))


class DimCurrency(Contract, stage="presentation", table="dim_currency", key=["currency_id"]):
    """Currencies with their names."""

    currency_id: pl.Int64 = column("Key")
    currency_code: pl.String = column("ISO 4217 code")
    currency_name: pl.String = column("Name; the code where it is not known")


@presentation(DATASET, DimCurrency, currencies=TABLES[Currency].history)
def presentation_dim_currency(currencies: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    rows = _last(currencies, "currency_id").select("currency_id", "currency_code")
    return rows.with_columns(currency_name=pl.col("currency_code").replace(CURRENCY_NAMES))


class DimDesign(Contract, stage="presentation", table="dim_design", key=["design_id"]):
    """Designs."""

    design_id: pl.Int64 = column("Key")
    design_name: pl.String = column("Name")
    file_location: pl.String = column("Folder of its file")
    file_name: pl.String = column("Name of its file")


@presentation(DATASET, DimDesign, designs=TABLES[Design].history)
def presentation_dim_design(designs: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    return _last(designs, "design_id").select(list(DimDesign.columns()))


class DimCounterparty(Contract, stage="presentation", table="dim_counterparty", key=["counterparty_id"]):
    """Counterparties with their legal addresses."""

    counterparty_id: pl.Int64 = column("Key")
    counterparty_legal_name: pl.String = column("Legal name")
    counterparty_legal_address_line_1: pl.String = column("First line of the legal address")
    counterparty_legal_address_line_2: pl.String = column("Second line", nullable=True)
    counterparty_legal_district: pl.String = column("District", nullable=True)
    counterparty_legal_city: pl.String = column("City")
    counterparty_legal_postal_code: pl.String = column("Postal code")
    counterparty_legal_country: pl.String = column("Country")
    counterparty_legal_phone_number: pl.String = column("Telephone number")


@presentation(DATASET, DimCounterparty, counterparties=TABLES[Counterparty].history, addresses=TABLES[Address].history)
def presentation_dim_counterparty(counterparties: pl.DataFrame, addresses: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    names = {"address_line_1": "address_line_1", "address_line_2": "address_line_2", "district": "district",
             "city": "city", "postal_code": "postal_code", "country": "country", "phone": "phone_number"}  # fmt: skip
    known = _last(addresses, "address_id").select(
        pl.col("address_id").alias("legal_address_id"),
        *(pl.col(name).alias(f"counterparty_legal_{shown}") for name, shown in names.items()),
    )
    rows = _last(counterparties, "counterparty_id").join(known, on="legal_address_id", maintain_order="left")
    return rows.select(list(DimCounterparty.columns()))


class DimPaymentType(Contract, stage="presentation", table="dim_payment_type", key=["payment_type_id"]):
    """Kinds of payments."""

    payment_type_id: pl.Int64 = column("Key")
    payment_type_name: pl.String = column("Name")


@presentation(DATASET, DimPaymentType, kinds=TABLES[PaymentType].history)
def presentation_dim_payment_type(kinds: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    return _last(kinds, "payment_type_id").select(list(DimPaymentType.columns()))


class DimTransaction(Contract, stage="presentation", table="dim_transaction", key=["transaction_id"]):
    """Transactions, each with its order."""

    transaction_id: pl.Int64 = column("Key")
    transaction_type: pl.String = column("SALE or PURCHASE")
    sales_order_id: pl.Int64 = column("The order of a sale", nullable=True)
    purchase_order_id: pl.Int64 = column("The order of a purchase", nullable=True)


@presentation(DATASET, DimTransaction, transactions=TABLES[Transaction].history)
def presentation_dim_transaction(transactions: pl.DataFrame) -> pl.DataFrame:
    """As they were seen last."""
    return _last(transactions, "transaction_id").select(list(DimTransaction.columns()))


# Facts ---------------------------------------------------------------------------------------------------


def _facts(history: pl.DataFrame, record_id: str, contract: type[Contract]) -> pl.DataFrame:
    """Every version as a row; its id follows from what it holds, so that batches in any order give the same.

    A version that came back after another one had taken its place is told apart by how often it was there before.
    """
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


class FactSalesOrder(
    Contract,
    stage="presentation",
    table="fact_sales_order",
    key=["sales_record_id"],
    partitioning=Partitioning("created_date", "month"),
):
    """Sales: every version of every order is a row. For what is so now, see refined.totesys_sales_order."""

    sales_record_id: pl.Int64 = column("Id of the version; follows from its content and never changes", ge=0)
    sales_order_id: pl.Int64 = column("Order")
    created_date: pl.Date = column("When the order was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was changed last", references=DimDate)
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
    return _facts(sales.rename({"staff_id": "sales_staff_id"}), "sales_record_id", FactSalesOrder)


class FactPurchaseOrder(
    Contract,
    stage="presentation",
    table="fact_purchase_order",
    key=["purchase_record_id"],
    partitioning=Partitioning("created_date", "month"),
):
    """Purchases: every version of every order is a row."""

    purchase_record_id: pl.Int64 = column("Id of the version; follows from its content and never changes", ge=0)
    purchase_order_id: pl.Int64 = column("Order")
    created_date: pl.Date = column("When the order was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was changed last", references=DimDate)
    last_updated_time: pl.Time = column("At what time of day")
    staff_id: pl.Int64 = column("Who ordered it", references=DimStaff)
    counterparty_id: pl.Int64 = column("Of whom it was ordered", references=DimCounterparty)
    item_code: pl.String = column("Code of the item")
    item_quantity: pl.Int64 = column("Number of items", unit="items")
    item_unit_price: pl.Decimal(10, 2) = column("Price of an item", unit="the order's currency")
    currency_id: pl.Int64 = column("Currency of the price", references=DimCurrency)
    agreed_delivery_date: pl.Date = column("When it is to be delivered", references=DimDate)
    agreed_payment_date: pl.Date = column("When it is to be paid", references=DimDate)
    agreed_delivery_location_id: pl.Int64 = column("Where it is to be delivered", references=DimLocation)


@presentation(DATASET, FactPurchaseOrder, purchases=TABLES[PurchaseOrder].history)
def presentation_fact_purchase_order(purchases: pl.DataFrame) -> pl.DataFrame:
    """As sales."""
    return _facts(purchases, "purchase_record_id", FactPurchaseOrder)


class FactPayment(
    Contract,
    stage="presentation",
    table="fact_payment",
    key=["payment_record_id"],
    partitioning=Partitioning("created_date", "month"),
):
    """Payments: every version of every payment is a row."""

    payment_record_id: pl.Int64 = column("Id of the version; follows from its content and never changes", ge=0)
    payment_id: pl.Int64 = column("Payment")
    created_date: pl.Date = column("When the payment was created", references=DimDate)
    created_time: pl.Time = column("At what time of day")
    last_updated_date: pl.Date = column("When it was changed last", references=DimDate)
    last_updated_time: pl.Time = column("At what time of day")
    transaction_id: pl.Int64 = column("What is paid", references=DimTransaction)
    counterparty_id: pl.Int64 = column("Who pays or is paid", references=DimCounterparty)
    payment_amount: pl.Decimal(14, 2) = column("Amount", unit="the payment's currency")
    currency_id: pl.Int64 = column("Currency of the amount", references=DimCurrency)
    payment_type_id: pl.Int64 = column("Kind of payment", references=DimPaymentType)
    paid: pl.Boolean = column("Whether it was paid")
    payment_date: pl.Date = column("When it is to be paid, or was", references=DimDate)


@presentation(DATASET, FactPayment, payments=TABLES[Payment].history)
def presentation_fact_payment(payments: pl.DataFrame) -> pl.DataFrame:
    """As sales."""
    return _facts(payments, "payment_record_id", FactPayment)


# Questions -----------------------------------------------------------------------------------------------


class SalesQuestions(Contract, stage="presentation", table="sales_questions", key=["question", "item"]):
    """Five questions on the orders as they are now: units in total, by month, by design, by currency, by country."""

    question: pl.String = column("total, month, design, currency or country (of delivery)")
    item: pl.String = column("What is counted: all, a month (2024-11), a design, a currency, a country")
    orders: pl.Int64 = column("Orders", unit="orders", ge=1)
    units_sold: pl.Int64 = column("Units", unit="totes", ge=0)


_ASKED_BY = ["design_id", "currency_id", "agreed_delivery_location_id"]


@presentation(
    DATASET,
    SalesQuestions,
    sales=Of(TABLES[SalesOrder].current, ["created_at", "units_sold", *_ASKED_BY]),
    designs=Of(presentation_dim_design, ["design_id", "design_name"]),
    currencies=Of(presentation_dim_currency, ["currency_id", "currency_code"]),
    locations=Of(presentation_dim_location, ["location_id", "country"]),
)
def presentation_sales_questions(
    sales: pl.DataFrame, designs: pl.DataFrame, currencies: pl.DataFrame, locations: pl.DataFrame
) -> Result:
    """Designs share names: a design is told by its number too."""
    rows = (
        sales.join(designs, on="design_id")
        .join(currencies, on="currency_id")
        .join(locations, left_on="agreed_delivery_location_id", right_on="location_id")
    )
    items = {
        "total": pl.lit("all"),
        "month": pl.col("created_at").dt.strftime("%Y-%m"),
        "design": pl.format("{} ({})", "design_name", "design_id"),
        "currency": pl.col("currency_code"),
        "country": pl.col("country"),
    }
    counted = {
        question: rows.group_by(question=pl.lit(question), item=item)
        .agg(orders=pl.len().cast(pl.Int64), units_sold=pl.col("units_sold").sum())
        .sort("units_sold", "item", descending=[True, False])
        for question, item in items.items()
    }
    months = counted["month"].sort("item").with_columns(month=pl.col("item").str.to_date("%Y-%m"))
    years = rows.group_by(item=pl.col("created_at").dt.year()).agg(pl.col("units_sold").sum()).sort("item")
    return Result(
        pl.concat(counted.values()),
        metadata={
            "total": bars(years, "item", "units_sold", "Units sold in total, by year"),
            "by_month": lines(months, "month", ["units_sold"], "Units sold by month"),
            "by_design": bars(counted["design"].head(20), "item", "units_sold", "Units sold by design: the first 20"),
            "by_currency": bars(counted["currency"], "item", "orders", "Orders by currency"),
            "by_country": bars(counted["country"].head(25), "item", "orders", "Orders by country of delivery"),
        },
    )
