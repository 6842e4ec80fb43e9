"""Pictures: what is drawn is there, in the colours of its values."""

import base64
import io
import re
from datetime import date
from decimal import Decimal
from typing import Any

import dagster as dg
import geopandas as gpd
import numpy as np
import polars as pl
import pytest
import shapely
from matplotlib.figure import Figure
from PIL import Image

from etl_assets.stages import pictures
from etl_assets.stages.over_time import yearly_lines
from etl_assets.stages.pictures import bars, choropleth, lines

LEAST, GREATEST, MISSING = (68, 1, 84), (253, 231, 37), (229, 229, 229)


def pixels(picture: dg.MarkdownMetadataValue) -> Any:
    """The picture as an array: rows, columns, RGB."""
    found = re.fullmatch(r"!\[.+]\(data:image/png;base64,(.+)\)", picture.md_str or "")
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))


def share(drawn: Any, colour: tuple[int, int, int]) -> float:
    """The share of the picture that has a colour, or nearly so."""
    return float((np.abs(drawn.astype(int) - colour).max(axis=2) <= 4).mean())


@pytest.mark.parametrize("west", [-100.0, 10.0])
def test_areas_have_the_colours_of_their_values(west: float) -> None:
    """Of the contiguous states and elsewhere; an area lies in the hole of another, one is of two parts."""
    square, inner = shapely.box(west, 40, west + 3, 43), shapely.box(west + 1, 41, west + 2, 42)
    parts = shapely.MultiPolygon([shapely.box(west + 3, 40, west + 4, 43), shapely.box(west + 5, 40, west + 6, 43)])
    areas = gpd.GeoDataFrame(
        {"value": [1.0, 5.0, np.nan]}, geometry=[inner, square.difference(inner), parts], crs="EPSG:4326"
    )
    drawn = pixels(choropleth(areas, "value", "Areas"))
    map_only = drawn[:, : drawn.shape[1] * 4 // 5]
    least, greatest, missing = (share(map_only, colour) for colour in (LEAST, GREATEST, MISSING))
    assert greatest / missing == pytest.approx(8 / 6, rel=0.1)  # square degrees
    assert least / missing == pytest.approx(1 / 6, rel=0.2)


def test_few_great_values_leave_the_others_apart() -> None:
    """Where some have nothing as well."""
    squares = [shapely.box(n - 100, 40, n - 99, 41) for n in range(5)]
    areas = gpd.GeoDataFrame({"value": [0.0, 0.5, 10.0, 200.0, 9000.0]}, geometry=squares, crs="EPSG:4326")
    drawn = pixels(choropleth(areas, "value", "Areas"))
    map_only = drawn[:, : drawn.shape[1] * 4 // 5].reshape(-1, 3)
    colours, counts = np.unique(map_only, axis=0, return_counts=True)
    assert len(colours[counts > 1000]) == 6  # the background's among them


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [1.0, 1e6]])
def test_maps_of_little_are_drawn(values: list[float]) -> None:
    squares = [shapely.box(n - 100, 40, n - 99, 41) for n in range(len(values))]
    areas = gpd.GeoDataFrame({"value": values}, geometry=squares, crs="EPSG:4326")
    drawn = pixels(choropleth(areas, "value", "Areas"))
    assert (share(drawn, MISSING) > 0.1) == any(np.isnan(values))
    assert (share(drawn, (255, 255, 255)) < 0.9) == bool(values)


@pytest.mark.parametrize("balances", [[], [None], [Decimal("0.25"), None, Decimal("98765432100.50")]])
def test_lines_of_little_and_of_much_are_drawn(balances: list[Decimal | None]) -> None:
    """What is written beside them has room: nothing is drawn at the very edge."""
    frame = pl.DataFrame(
        {"year": range(len(balances)), "balance": balances}, schema={"year": pl.Int64, "balance": pl.Decimal(20, 2)}
    )
    for ys in ([], ["balance"], ["balance", "year"]):
        drawn = pixels(lines(frame, "year", ys, "Lines"))
        assert (drawn < 128).any()
        assert (drawn[:, [0, 1, -1]] == 255).all()


def test_what_dates_have_in_common_has_room_below_them() -> None:
    frame = pl.DataFrame({"month": [date(2025, 1, 1), date(2025, 2, 1), date(2025, 3, 1)], "events": [1, 2, 3]})
    drawn = pixels(lines(frame, "month", ["events"], "Lines"))
    assert (drawn[-30:] < 128).any()
    assert (drawn[-2:] == 255).all()


def test_a_map_has_room_for_great_numbers() -> None:
    squares = [shapely.box(n - 100, 40, n - 99, 41) for n in range(5)]
    values = [1e9, 2e9, 1e10, 5e10, 98_765_432_100]
    drawn = pixels(
        choropleth(gpd.GeoDataFrame({"US dollars": values}, geometry=squares, crs=4326), "US dollars", "Map")
    )
    assert (drawn[:, -2:] == 255).all()


def test_a_picture_fits_into_the_event_log() -> None:
    """Where it is too large, its resolution is lower."""
    squares = [
        shapely.box(x - 124, y + 25, x - 123.9, y + 25.1) for x in np.arange(0, 12, 0.1) for y in np.arange(0, 7, 0.1)
    ]
    values = np.random.default_rng(0).random(len(squares))
    picture = choropleth(gpd.GeoDataFrame({"value": values}, geometry=squares, crs="EPSG:4326"), "value", "Noise")
    assert len(picture.md_str or "") < 50_000
    assert pixels(picture).shape[1] < 560  # its resolution, if there are many areas and they were to fit


@pytest.mark.parametrize(("shares", "last"), [(False, "4"), (True, "400%")])
def test_bars_are_labelled_as_what_they_are(shares: bool, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small their numbers: counts are no shares."""
    drawn: list[Figure] = []

    def keep(figure: Figure, title: str) -> dg.MarkdownMetadataValue:
        drawn.append(figure)
        return dg.MetadataValue.md(title)

    monkeypatch.setattr(pictures, "_markdown", keep)
    bars(pl.DataFrame({"currency": ["GBP", "USD"], "orders": [4, 3]}), "currency", "orders", "Orders", shares=shares)
    labels = drawn[0].axes[0].xaxis.get_major_formatter().format_ticks([0, 4])
    assert labels[-1] == last


def test_what_looks_like_a_formula_is_a_text() -> None:
    frame = pl.DataFrame({"of": [r"Tote $20 #1 $25", r"Curr$ency \\frac{ $land"], "n": [1, 2]})
    assert pixels(bars(frame, "of", "n", r"What $is$ \\sold")).shape[1] > 100


def test_a_picture_that_cannot_be_drawn_keeps_no_table_back() -> None:
    """It says why in its place."""
    days = pl.DataFrame({"day": [date(1, 1, 1), date(9999, 12, 31)], "n": [1, 2]})
    assert "This picture cannot be drawn: ValueError: " in str(lines(days, "day", ["n"], "Days").md_str)
    regions = pl.DataFrame({"year": [2000, 2001], "region": ["year", "a"], "value": [1.0, 2.0]})
    assert "This picture cannot be drawn: " in str(yearly_lines(regions, "region", "value", "Regions").md_str)
