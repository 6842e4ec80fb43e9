"""The dimensions of ToteSys's star schema: what its facts are queried by."""

import dagster as dg
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
from etl_assets.stages import Of, presentation

#: The currencies of ISO 4217 that a company in Europe trades in; another one goes by its code until it is added here.
CURRENCY_NAMES = {
    "GBP": "Pound sterling", "USD": "US dollar", "EUR": "Euro", "CHF": "Swiss franc", "JPY": "Yen", "CAD": "Canadian "
    "dollar", "AUD": "Australian dollar", "NZD": "New Zealand dollar", "SEK": "Swedish krona", "NOK": "Norwegian krone",
    "DKK": "Danish krone", "PLN": "Zloty", "CZK": "Czech koruna", "HUF": "Forint", "CNY": "Yuan renminbi",
    "INR": "Indian rupee", "ZAR": "Rand", "BRL": "Brazilian real", "MXN": "Mexican peso", "SGD": "Singapore dollar",
}  # fmt: skip


def _last(history: pl.DataFrame, key: str) -> pl.DataFrame:
    """The last version of every key that was ever seen: what a fact refers to stays, even if the source dropped it."""
    return history.sort(key, "valid_from").unique(key, keep="last", maintain_order=True)


def _dimension(contract: type[Contract], of: type[Contract], **renamed: str) -> dg.AssetsDefinition:
    """A table as it was last seen, under the dimension's names."""

    @presentation(DATASET, contract, history=TABLES[of].history)
    def made(history: pl.DataFrame) -> pl.DataFrame:
        return _last(history, of.place().key[0]).rename(renamed).select(list(contract.columns()))

    return made


class DimDate(Contract, stage="presentation", table="dim_date", key=["date_id"]):
    """Days: every day of the years in which anything was created, and all others that a fact names."""

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
    """A date in an absurd year adds only itself, not the years up to it."""
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
    email_address: pl.String = column("E-mail address")


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


presentation_dim_location = _dimension(DimLocation, Address, address_id="location_id")


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


presentation_dim_design = _dimension(DimDesign, Design)


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
    known = _last(addresses, "address_id").rename({"phone": "phone_number"})
    known = known.select(
        pl.col("address_id").alias("legal_address_id"), pl.exclude("address_id").name.prefix("counterparty_legal_")
    )
    rows = _last(counterparties, "counterparty_id").join(known, on="legal_address_id", maintain_order="left")
    return rows.select(list(DimCounterparty.columns()))


class DimPaymentType(Contract, stage="presentation", table="dim_payment_type", key=["payment_type_id"]):
    """Kinds of payments."""

    payment_type_id: pl.Int64 = column("Key")
    payment_type_name: pl.String = column("Name")


presentation_dim_payment_type = _dimension(DimPaymentType, PaymentType)


class DimTransaction(Contract, stage="presentation", table="dim_transaction", key=["transaction_id"]):
    """Transactions, each with its order."""

    transaction_id: pl.Int64 = column("Key")
    transaction_type: pl.String = column("SALE or PURCHASE")
    sales_order_id: pl.Int64 = column("The order of a sale", nullable=True)
    purchase_order_id: pl.Int64 = column("The order of a purchase", nullable=True)


presentation_dim_transaction = _dimension(DimTransaction, Transaction)
