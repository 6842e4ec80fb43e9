"""ToteSys, the database that a company sells and buys with: its eleven tables, as they are and as they were."""

import polars as pl

from etl_assets.automation.partitions import daily
from etl_assets.quality.contract import Contract, column
from etl_assets.sources.database import DatabaseSource, SourceTable
from etl_assets.stages import Dataset, landing
from etl_assets.stages.history import versioned
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="totesys",
    title="ToteSys",
    publisher="Terrific Totes",
    homepage="",
    licence="none stated",
    citation="ToteSys",
    cadence="all the time",
    partitions=daily("2022-11-03", ahead=1),
)


class SourceRow(Contract):
    """What every table of the source has besides its own columns; times of day are the source's, without a zone."""

    created_at: pl.Datetime("us") = column("When the row was created, by the source's clock")
    last_updated: pl.Datetime("us") = column("When the row was last changed, according to the source")


def _place(table: str) -> dict[str, object]:
    key = f"{table}_id"
    return {
        "stage": "refined",
        "table": f"totesys_{table}",
        "key": [key],
        "partitioning": Partitioning(key, "block"),
    }


class Address(SourceRow, **_place("address")):
    """Addresses: where counterparties are, and where goods are delivered."""

    address_id: pl.Int64 = column("Key", ge=1)
    address_line_1: pl.String = column("First line")
    address_line_2: pl.String = column("Second line", nullable=True)
    district: pl.String = column("District", nullable=True)
    city: pl.String = column("City")
    postal_code: pl.String = column("Postal code")
    country: pl.String = column("Country")
    phone: pl.String = column("Telephone number")


class Counterparty(SourceRow, **_place("counterparty")):
    """Companies that are sold to or bought from."""

    counterparty_id: pl.Int64 = column("Key", ge=1)
    counterparty_legal_name: pl.String = column("Legal name")
    legal_address_id: pl.Int64 = column("Legal address", references=Address)
    commercial_contact: pl.String = column("Contact for business", nullable=True)
    delivery_contact: pl.String = column("Contact for deliveries", nullable=True)


class Currency(SourceRow, **_place("currency")):
    """Currencies that are traded in."""

    currency_id: pl.Int64 = column("Key", ge=1)
    currency_code: pl.String = column("ISO 4217 code", str_matches=r"^[A-Z]{3}$")


class Department(SourceRow, **_place("department")):
    """The company's departments."""

    department_id: pl.Int64 = column("Key", ge=1)
    department_name: pl.String = column("Name")
    location: pl.String = column("Where it is", nullable=True)
    manager: pl.String = column("Who leads it", nullable=True)


class Staff(SourceRow, **_place("staff")):
    """The company's staff."""

    staff_id: pl.Int64 = column("Key", ge=1)
    first_name: pl.String = column("First name")
    last_name: pl.String = column("Last name")
    department_id: pl.Int64 = column("Department", references=Department)
    email_address: pl.String = column("E-mail address", str_matches=r"^[^@\s]+@[^@\s]+$")


class Design(SourceRow, **_place("design")):
    """Designs of totes; the source moves their files without saying so in last_updated."""

    design_id: pl.Int64 = column("Key", ge=1)
    design_name: pl.String = column("Name")
    file_location: pl.String = column("Folder of its file")
    file_name: pl.String = column("Name of its file")


class SalesOrder(SourceRow, **_place("sales_order")):
    """Orders of counterparties."""

    sales_order_id: pl.Int64 = column("Key", ge=1)
    design_id: pl.Int64 = column("Design that is sold", references=Design)
    staff_id: pl.Int64 = column("Who sold it", references=Staff)
    counterparty_id: pl.Int64 = column("Who bought it", references=Counterparty)
    units_sold: pl.Int64 = column("Units", unit="totes", ge=0)
    unit_price: pl.Decimal(10, 2) = column("Price of a unit", unit="the order's currency", ge=0)
    currency_id: pl.Int64 = column("Currency of the price", references=Currency)
    agreed_delivery_date: pl.Date = column("When it is to be delivered")
    agreed_payment_date: pl.Date = column("When it is to be paid")
    agreed_delivery_location_id: pl.Int64 = column("Where it is to be delivered", references=Address)


class PurchaseOrder(SourceRow, **_place("purchase_order")):
    """Orders that the company places with counterparties."""

    purchase_order_id: pl.Int64 = column("Key", ge=1)
    staff_id: pl.Int64 = column("Who ordered it", references=Staff)
    counterparty_id: pl.Int64 = column("Who it was ordered from", references=Counterparty)
    item_code: pl.String = column("Code of the item")
    item_quantity: pl.Int64 = column("Number of items", unit="items", ge=0)
    item_unit_price: pl.Decimal(10, 2) = column("Price of an item", unit="the order's currency", ge=0)
    currency_id: pl.Int64 = column("Currency of the price", references=Currency)
    agreed_delivery_date: pl.Date = column("When it is to be delivered")
    agreed_payment_date: pl.Date = column("When it is to be paid")
    agreed_delivery_location_id: pl.Int64 = column("Where it is to be delivered", references=Address)


class PaymentType(SourceRow, **_place("payment_type")):
    """Kinds of payments."""

    payment_type_id: pl.Int64 = column("Key", ge=1)
    payment_type_name: pl.String = column("Name, such as SALES_RECEIPT")


class Transaction(SourceRow, **_place("transaction")):
    """Sales and purchases, each of one order."""

    transaction_id: pl.Int64 = column("Key", ge=1)
    transaction_type: pl.String = column("SALE or PURCHASE", isin=["SALE", "PURCHASE"])
    sales_order_id: pl.Int64 = column("The order of a sale", nullable=True, references=SalesOrder)
    purchase_order_id: pl.Int64 = column("The order of a purchase", nullable=True, references=PurchaseOrder)


class Payment(SourceRow, **_place("payment")):
    """Payments of transactions; most are changed after they were created, when they are paid."""

    payment_id: pl.Int64 = column("Key", ge=1)
    transaction_id: pl.Int64 = column("What is paid", references=Transaction)
    counterparty_id: pl.Int64 = column("Who pays or is paid", references=Counterparty)
    payment_amount: pl.Decimal(14, 2) = column("Amount", unit="the payment's currency", ge=0)
    currency_id: pl.Int64 = column("Currency of the amount", references=Currency)
    payment_type_id: pl.Int64 = column("Kind of payment", references=PaymentType)
    paid: pl.Boolean = column("Whether it was paid")
    payment_date: pl.Date = column("When it is due, or was paid")
    company_ac_number: pl.Int64 = column("Account of the company")
    counterparty_ac_number: pl.Int64 = column("Account of the counterparty")


CONTRACTS: list[type[Contract]] = [
    Address, Counterparty, Currency, Department, Staff, Design, SalesOrder, PurchaseOrder, PaymentType, Transaction,
    Payment,
]  # fmt: skip
#: Tables that grow: read from their watermark on. The others are small, and are compared row by row.
GROWING = {"sales_order", "purchase_order", "transaction", "payment"}


def _source_table(contract: type[Contract]) -> SourceTable:
    place = contract.place()
    name = place.table.removeprefix("totesys_")
    return SourceTable(
        name, place.key[0], list(contract.columns()), changed="last_updated" if name in GROWING else None
    )


landing_totesys = landing(DATASET, DatabaseSource("totesys", [_source_table(contract) for contract in CONTRACTS]))
TABLES = versioned(DATASET, landing_totesys, CONTRACTS)
ASSETS = [asset for table in TABLES.values() for asset in (table.raw, table.history, table.current)]
