"""Maps and plots for the UI's metadata: PNG in Markdown, small enough for the event log."""

from __future__ import annotations

import base64
import io

import dagster as dg
import geopandas as gpd
import polars as pl
from matplotlib.figure import Figure

#: Every picture becomes part of an event in Dagster's database.
_LARGEST = 50_000


def choropleth(areas: gpd.GeoDataFrame, column: str, title: str) -> dg.MarkdownMetadataValue:
    """A map of areas coloured by a column, of the contiguous United States where the areas reach beyond them."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    shapes = areas.set_geometry(areas.geometry.simplify(0.05))
    shapes.plot(
        column=column, ax=axes, legend=True, cmap="viridis", linewidth=0, scheme=None,
        missing_kwds={"color": "0.92"}, legend_kwds={"shrink": 0.6, "label": column},
    )  # fmt: skip
    west, south, east, north = areas.total_bounds
    axes.set_xlim(max(west, -125), min(east, -66))
    axes.set_ylim(max(south, 24), min(north, 50))
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    return _markdown(figure, title)


def lines(frame: pl.DataFrame, x: str, ys: list[str], title: str) -> dg.MarkdownMetadataValue:
    """Lines of one or more columns over another."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for y in ys:
        axes.plot(frame[x].to_numpy(), frame[y].to_numpy(), marker=".", label=y)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _markdown(figure, title)


def _markdown(figure: Figure, title: str) -> dg.MarkdownMetadataValue:
    for dpi in (90, 70, 50, 35):
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=dpi)
        if sink.tell() <= _LARGEST * 3 // 4:
            break
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()})")
