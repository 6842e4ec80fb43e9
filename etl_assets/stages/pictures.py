"""Maps and plots for the UI's metadata: PNG in Markdown, small enough for the event log.

matplotlib is imported only where something is drawn: it takes a seventh of a process's start, and few processes draw.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import dagster as dg
import geopandas as gpd
import numpy as np
import polars as pl
import shapely

from etl_assets.logs import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.path import Path

log = logging.getLogger(__name__)
Drawn = ParamSpec("Drawn")
#: Every picture becomes part of an event in Dagster's database.
_LARGEST = 50_000
#: Resolutions in dots per inch: the first that gives a small enough picture is taken; with many areas, never 100.
_RESOLUTIONS = (100, 80, 60, 40)
_MANY_AREAS = 2_000
#: West, south, east and north of the contiguous United States in degrees, and the projection they are drawn in.
_CONTIGUOUS = (-125.0, 24.0, -66.0, 50.0)
_ALBERS = 5070
#: The projection that other areas are drawn in.
_MERCATOR = 3857
#: Colours follow the logarithm above this ratio of the greatest to the least value above zero.
_SKEWED = 20
_CLASSES = 9


def picture(draw: Callable[Drawn, dg.MarkdownMetadataValue]) -> Callable[Drawn, dg.MarkdownMetadataValue]:
    """Draw a source's texts as text, not as formulas; where a picture cannot be drawn, show why in its place.

    So no picture keeps a table from being published.
    """

    @wraps(draw)
    def drawn(*args: Drawn.args, **kwargs: Drawn.kwargs) -> dg.MarkdownMetadataValue:
        from matplotlib import rc_context

        try:
            with rc_context({"text.parse_math": False}):
                return draw(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a library does not like about a source's values
            why = plain(f"{type(error).__name__}: {error}", 200)
            log.warning("A picture cannot be drawn: %s", why)
            return dg.MetadataValue.md(f"This picture cannot be drawn: {why}")

    return drawn


@picture
def choropleth(areas: gpd.GeoDataFrame, column: str, title: str) -> dg.MarkdownMetadataValue:
    """A map of areas coloured by a column; if any lie in the contiguous United States, only those.

    Areas without a value are grey. Colours follow the logarithm (from the least value above zero on) where a few areas
    would otherwise make all others look alike.
    """
    from matplotlib import colormaps
    from matplotlib.collections import PathCollection
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    west, south, east, north = _CONTIGUOUS
    shown = areas.cx[west:east, south:north]
    shown = shown.to_crs(_ALBERS) if len(shown) else areas[areas.geometry.notna()].to_crs(_MERCATOR)
    values = shown[column].to_numpy(dtype=float, na_value=np.nan)
    known = values[np.isfinite(values)]
    above = known[known > 0]
    is_skewed = above.size and known.min() >= 0 and above.max() > _SKEWED * above.min()
    coloured = PathCollection(
        _outlines(shown.geometry),
        array=np.ma.masked_invalid(values),
        cmap=colormaps["viridis"].resampled(_CLASSES).with_extremes(bad="0.9"),
        norm=SymLogNorm(above.min(), vmin=known.min(), vmax=known.max()) if is_skewed else None,
        edgecolor="white",
        linewidth=0.15,
    )
    figure = Figure(figsize=(7, 4.2))
    beside = 0.91 - _room(known)
    axes = figure.add_axes((0.01, 0.02, beside - 0.03, 0.91))
    axes.add_collection(coloured)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, y=1)
    if known.size:
        scale = figure.add_axes((beside, 0.19, 0.02, 0.57))
        figure.colorbar(coloured, cax=scale, label=column, format="{x:,.12g}" if is_skewed else None)
        scale.tick_params(labelsize=8)
    return _markdown(figure, title, _RESOLUTIONS[1:] if len(shown) > _MANY_AREAS else _RESOLUTIONS)


def _room(values: np.ndarray) -> float:
    """The share of a picture's width that the longest of some values takes in small type.

    matplotlib can find that out by drawing everything once more, which takes as long as the picture (measured).
    """
    there = values[np.isfinite(values)]
    texts = [f"{value:,.0f}" for value in (there.min(), there.max())] if there.size else []
    return 0.009 * max([5, *map(len, texts)])


def _outlines(areas: gpd.GeoSeries) -> list[Path]:
    """A path for each area, with its parts and holes; geopandas makes them ring by ring and takes ten times as long."""
    from matplotlib.path import Path

    polygons, area = shapely.get_parts(areas, return_index=True)
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    codes = np.full(len(corners), Path.LINETO)
    codes[np.flatnonzero(np.diff(ring, prepend=-1))] = Path.MOVETO
    codes[np.flatnonzero(np.diff(ring, append=-1))] = Path.CLOSEPOLY
    first = np.searchsorted(area[polygon][ring], np.arange(1, len(areas)))
    return [Path(*path) for path in zip(np.split(corners, first), np.split(codes, first), strict=True)]


@picture
def lines(frame: pl.DataFrame, x: str, ys: list[str], title: str) -> dg.MarkdownMetadataValue:
    """Lines of one or more columns over another."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    left = 0.02 + _room(frame.select(ys).cast(pl.Float64).to_numpy())
    axes = figure.add_axes((left, 0.15, 0.98 - left, 0.75))  # what dates have in common is written below them
    for y in ys:
        axes.plot(frame[x].to_numpy(), frame[y].to_numpy(), marker=".", label=y)
    if len(ys) > 1:
        axes.legend(frameon=False, fontsize=8)
    if frame.schema[x].is_temporal():
        locator = AutoDateLocator(maxticks=10)
        axes.xaxis.set(major_locator=locator, major_formatter=ConciseDateFormatter(locator))
        axes.xaxis.get_offset_text().set_fontsize(7)
    axes.yaxis.set_major_formatter("{x:,.12g}")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_title(title, fontsize=10, y=1)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _markdown(figure, title)


@picture
def bars(
    frame: pl.DataFrame, x: str, y: str | Sequence[str], title: str, *, shares: bool = False
) -> dg.MarkdownMetadataValue:
    """Horizontal bars of one or more columns for each value of another, the first row on top; `shares`: in per cent."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    ys = [y] if isinstance(y, str) else list(y)
    figure = Figure(figsize=(7, max(1.6, 0.24 * frame.height * len(ys) ** 0.7 + 0.6)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(ys)
    for n, name in enumerate(ys):
        places = np.arange(frame.height) + (n + 0.5) * height - 0.4
        colour = colormaps["viridis"](0.35 if len(ys) == 1 else n / len(ys))
        axes.barh(places, frame[name].to_numpy(), height, color=colour, label=name)
    axes.set_yticks(range(frame.height), frame[x].cast(pl.String).to_list())
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:.0%}" if shares else "{x:,.12g}")
    if len(ys) > 1:
        figure.legend(loc="outside lower center", ncols=len(ys), frameon=False, fontsize=7)
    axes.set_title(title, fontsize=10, y=1)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _markdown(figure, title)


def _markdown(figure: Figure, title: str, resolutions: Sequence[int] = _RESOLUTIONS) -> dg.MarkdownMetadataValue:
    """The figure in the first resolution small enough for the event log; with few colours, in a third of the bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    png = b""
    for dpi in resolutions:
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")  # keeps the layout at the other resolutions
        sink = io.BytesIO()
        pixels = np.asarray(canvas.buffer_rgba())
        picture = Image.fromarray(pixels).convert("RGB")
        picture.quantize(64, dither=Image.Dither.NONE).save(sink, "PNG", optimize=True)
        png = sink.getvalue()
        if len(png) <= _LARGEST * 3 // 4:  # base64 makes four bytes of three
            break
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
