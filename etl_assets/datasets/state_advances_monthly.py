"""What the US Treasury has advanced to the states, month by month."""

import geopandas as gpd
import polars as pl

from etl_assets.datasets.treasury_title_xii import (
    AMOUNT,
    DATASET,
    StateUnemploymentAdvances,
    code_of,
    raw_treasury_title_xii,
    refined_state_unemployment_advances,
    state_of,
)
from etl_assets.datasets.us_counties import refined_us_counties
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.quarantine import UNPLACED
from etl_assets.quality.states import FIPS
from etl_assets.stages import Of, Result, presentation
from etl_assets.stages.pictures import choropleth, lines
from etl_assets.storage.table import PARTITION


class StateAdvancesMonthly(Contract, stage="presentation", table="state_advances_monthly", key=["month", "state_code"]):
    """Advances per state and month. A state that has repaid leaves the statement, and has no balance at the end."""

    month: pl.Date = column("First day of the month")
    state_code: pl.String = column("Postal code of the state")
    state: pl.String = column("Name of the state")
    last_record_date: pl.Date = column("The month's last day of record for the state")
    month_end_balance: AMOUNT = column(
        "Advances outstanding on the month's last day of record; null for a state that is no longer listed "
        "then, or if some of its lines are, or may be, in quarantine",
        unit="US dollars",
        nullable=True,
    )
    draws: AMOUNT = column("Drawn in the month, up to the state's last day of record", unit="US dollars", nullable=True)
    interest_accrued_fiscal_year: AMOUNT = column("Interest accrued so far", unit="US dollars", nullable=True)
    interest_paid: AMOUNT = column("Interest paid, summed over the month", unit="US dollars", nullable=True)
    is_complete: pl.Boolean = column(
        "Whether no line of the state's month is, or may be, in quarantine; otherwise its sums are null"
    )


@presentation(
    DATASET,
    StateAdvancesMonthly,
    statements=Of(raw_treasury_title_xii, ["record_date", "state_nm", "src_line_nbr", PARTITION]),
    advances=refined_state_unemployment_advances,
    counties=Of(refined_us_counties, ["state_fips", "geometry"]),
)
def presentation_state_advances_monthly(
    statements: pl.DataFrame, advances: pl.DataFrame, counties: gpd.GeoDataFrame
) -> Result:
    """A state's lines on its last day of a month, summed: the source's draws are those of the month so far.

    What is in quarantine is unknown, which is different from not being on the statement.
    """
    by = ["month", "state_code"]
    state = state_of(pl.col("state_nm"))
    there = statements.filter(pl.col(PARTITION) != UNPLACED).select(
        record_date=pl.col("record_date").str.to_date("%Y-%m-%d", strict=False),
        state_code=code_of(state),
        line=pl.col("src_line_nbr").cast(pl.Int32, strict=False),
        state=state,
        month=pl.col(PARTITION).str.to_date("%Y-%m-%d"),
    )
    is_read = pl.col("record_date").is_not_null() & pl.col("state_code").is_not_null()
    unknown = there.filter(is_read).unique().join(advances, on=StateUnemploymentAdvances.place().key, how="anti")
    days = pl.concat(
        [
            advances.with_columns(month=pl.col("record_date").dt.truncate("1mo"), is_known=pl.lit(True)),
            unknown.with_columns(is_known=pl.lit(False)),
        ],
        how="diagonal",
    )
    doubtful = _doubtful(days, there.filter(~is_read)).with_columns(is_doubtful=pl.lit(True))
    days = days.join(doubtful, on=by, how="left")
    days = days.with_columns(is_known=pl.col("is_known") & pl.col("is_doubtful").is_null())
    days = days.with_columns(is_month_end=pl.col("record_date") == pl.col("record_date").max().over("month"))
    is_last = pl.col("record_date") == pl.col("record_date").max().over(by)
    table = (
        days.filter(is_last)
        .group_by(by)
        .agg(
            pl.col("state").first(),
            last_record_date=pl.col("record_date").first(),
            month_end_balance=pl.when(pl.col("is_month_end").first()).then(_sum("outstanding_advance_balance")),
            draws=_sum("gross_advance_draws_month"),
            interest_accrued_fiscal_year=_sum("interest_accrued_fiscal_year"),
        )
        .join(days.group_by(by).agg(interest_paid=_sum("interest_paid"), is_complete=pl.col("is_known").all()), on=by)
        .with_columns(pl.col(pl.Decimal).cast(AMOUNT))
    )
    total = table.group_by("month").agg(pl.col("month_end_balance").sum().cast(pl.Float64)).sort("month")
    newest = table.filter(pl.col("month") == pl.col("month").max()).select(
        state_fips=pl.col("state_code").replace_strict(FIPS), balance=pl.col("month_end_balance").cast(pl.Float64)
    )
    states = counties.dissolve("state_fips").merge(newest.to_pandas(), on="state_fips", how="left")
    return Result(
        table.select(list(StateAdvancesMonthly.columns())),
        metadata={
            "over_time": lines(total, "month", ["month_end_balance"], "Advances outstanding, US dollars"),
            "map": choropleth(states, "balance", "Advances outstanding at the end of the newest month, US dollars"),
        },
    )


def _doubtful(days: pl.DataFrame, unread: pl.DataFrame) -> pl.DataFrame:
    """The states and months that may lack a line: they have none on a day that an unread line is, or may be, from."""
    others = unread.select("month", "record_date").drop_nulls()
    of_month = pl.concat([days.select("month", "record_date"), others]).unique()
    gaps = days.select("month", "state_code").unique().join(of_month, on="month")
    gaps = gaps.join(days, on=["state_code", "record_date"], how="anti")
    of_no_day = unread.filter(pl.col("record_date").is_null())
    there = [gaps.join(others, on="record_date", how="semi"), gaps.join(of_no_day, on="month", how="semi")]
    return pl.concat(there).select("month", "state_code").unique()


def _sum(name: str) -> pl.Expr:
    """The sum of the lines; null if one of them is not known, or none has a value."""
    return pl.when(pl.col("is_known").all() & (pl.col(name).count() > 0)).then(pl.col(name).sum())
