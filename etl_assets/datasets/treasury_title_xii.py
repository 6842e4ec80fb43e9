"""Advances to state unemployment funds (Title XII), from the US Treasury's Fiscal Data API."""

from datetime import timedelta
from pathlib import Path

import pandera.polars as pa
import polars as pl

from etl_assets.automation.partitions import monthly
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.readings import as_read, distinct_as_read, exact, whole
from etl_assets.quality.states import CODES
from etl_assets.sources.extracts import read_pages
from etl_assets.sources.fiscal_data import FiscalDataSource
from etl_assets.stages import Dataset, Result, landing, raw, refined
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="treasury_title_xii",
    title="Advances to state unemployment funds",
    publisher="US Treasury, Bureau of the Fiscal Service",
    homepage="https://fiscaldata.treasury.gov/datasets/ssa-title-xii-advance-activities/",
    licence="Public domain",
    citation="US Treasury, Advances to State Unemployment Funds (Social Security Act Title XII)",
    cadence="daily on working days",
    stale_after=timedelta(days=45),
    data_stale_after=timedelta(days=60),
    anew="0 4 * * 0",
    partitions=monthly("2000-01-01"),
)

#: The contract's columns for the source's amounts, and for its whole numbers.
AMOUNTS = {
    "outstanding_advance_balance": "outstanding_advance_bal",
    "advance_authorized_month": "advance_auth_month_amt",
    "gross_advance_draws_month": "gross_advance_draws_month_amt",
    "interest_accrued_fiscal_year": "interest_accrued_fytd_amt",
    "interest_paid": "interest_paid_amt",
}
DATE_PARTS = ("fiscal_year", "fiscal_quarter", "calendar_year", "calendar_quarter", "calendar_month", "calendar_day")
NUMBERS = {"line": "src_line_nbr", **{name: f"record_{name}" for name in DATE_PARTS}}
FIELDS = ("record_date", "state_nm", "interest_rate_pct", *AMOUNTS.values(), *NUMBERS.values())
#: Names that the source misspells.
CORRECTIONS = {"Louisana": "Louisiana"}
AMOUNT, RATE = pl.Decimal(18, 2), pl.Decimal(12, 8)


class StateUnemploymentAdvances(
    Contract,
    stage="refined",
    table="state_unemployment_advances",
    key=["record_date", "state_code", "line"],
    partitioning=Partitioning("record_date", "month"),
):
    """Advances to a state's unemployment fund as of a day; a state may have more than one line."""

    record_date: pl.Date = column("Day of the record")
    state_code: pl.String = column("Postal code of the state", isin=sorted(CODES.values()))
    state: pl.String = column("Name of the state")
    state_given: pl.String = column("Name as the source has it")
    footnote: pl.String = column("Footnote marks behind the name", nullable=True)
    line: pl.Int32 = column("Position of the row in the day's statement; not a state's id", ge=1)
    interest_rate: RATE = column("Interest rate", unit="% a year", nullable=True, ge=0)
    outstanding_advance_balance: AMOUNT = column("Advances outstanding", unit="US dollars", nullable=True, ge=0)
    advance_authorized_month: AMOUNT = column("Authorized for the month", unit="US dollars", nullable=True)
    gross_advance_draws_month: AMOUNT = column("Drawn in the month so far", unit="US dollars", nullable=True)
    interest_accrued_fiscal_year: AMOUNT = column(
        "Interest accrued in the fiscal year", unit="US dollars", nullable=True
    )
    interest_paid: AMOUNT = column("Interest paid", unit="US dollars", nullable=True)
    fiscal_year: pl.Int32 = column("Fiscal year, October to September", unit="year")
    fiscal_quarter: pl.Int32 = column("Quarter of the fiscal year")
    calendar_year: pl.Int32 = column("Calendar year", unit="year")
    calendar_quarter: pl.Int32 = column("Quarter of the calendar year")
    calendar_month: pl.Int32 = column("Month")
    calendar_day: pl.Int32 = column("Day of the month")

    @pa.dataframe_check(name="date_parts_are_those_of_record_date")
    def _date_parts(cls, data: pa.PolarsData) -> pl.LazyFrame:
        day = pl.col("record_date").dt
        parts = {
            "fiscal_year": day.year() + (day.month() >= 10).cast(pl.Int32),
            "fiscal_quarter": day.quarter() % 4 + 1,
            "calendar_year": day.year(),
            "calendar_quarter": day.quarter(),
            "calendar_month": day.month(),
            "calendar_day": day.day(),
        }
        same = pl.all_horizontal(pl.col(name) == part for name, part in parts.items())
        return data.lazyframe.select(same.fill_null(True))


landing_treasury_title_xii = landing(
    DATASET,
    FiscalDataSource(
        source="treasury",
        live="https://api.fiscaldata.treasury.gov",
        path="services/api/fiscal_service/v2/accounting/od/title_xii",
        sort="record_date,src_line_nbr,state_nm",
    ),
)


def state_of(name: pl.Expr) -> pl.Expr:
    """The name of a state: without footnote marks, and spelt right."""
    return name.str.strip_chars(" *").replace(CORRECTIONS)


def code_of(state: pl.Expr) -> pl.Expr:
    """The postal code of a state; null if there is no such state."""
    return state.replace_strict(CODES, default=None, return_dtype=pl.String)


@raw(
    DATASET,
    landing_treasury_title_xii,
    required=FIELDS,
    partition=pl.col("record_date").str.slice(0, 7) + "-01",
)
def raw_treasury_title_xii(path: Path) -> pl.DataFrame:
    """The rows of all pages, every value a text."""
    return read_pages(path, lambda page: page["data"])


@refined(DATASET, StateUnemploymentAdvances, raw=raw_treasury_title_xii)
def refined_state_unemployment_advances(raw: pl.DataFrame) -> Result:
    """Typed, amounts exact to the cent; the text "null" is null, and rows that say the same are merged."""
    given = {name: pl.when(pl.col(name) != "null").then(pl.col(name)) for name in FIELDS}
    state = state_of(given["state_nm"])
    readings = {
        "record_date": ("record_date", given["record_date"].str.to_date("%Y-%m-%d", strict=False)),
        "interest_rate": ("interest_rate_pct", exact(given["interest_rate_pct"], RATE)),
        **{name: (source, exact(given[source], AMOUNT)) for name, source in AMOUNTS.items()},
        **{name: (source, whole(given[source], pl.Int32)) for name, source in NUMBERS.items()},
    }
    table = as_read(
        raw,
        readings,
        nothing=["null"],
        state_code=code_of(state),
        state=state,
        state_given="state_nm",
        footnote=given["state_nm"].str.strip_chars().str.extract(r"(\*+)$"),
    )
    return Result(*distinct_as_read(table, [c for c in StateUnemploymentAdvances.columns() if c != "state_given"]))
