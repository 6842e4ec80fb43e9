"""What a source's columns are called, and the records of JSON documents as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etl_assets.sources import SourceRefusedError
from etl_assets.sources.records import read_geojson


def feature(**of: object) -> dict[str, object]:
    """A GeoJSON feature."""
    return {"type": "Feature", "properties": {}, "geometry": None} | of


def geojson(folder: Path, content: object) -> Path:
    """A GeoJSON file: text as it is, else a FeatureCollection of these features."""
    path = folder / "areas.geojson"
    document = content if isinstance(content, str) else json.dumps({"type": "FeatureCollection", "features": content})
    path.write_text(document, encoding="utf-8")
    return path


def test_features_are_read_as_text(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [1.5, 2]}
    features = [
        feature(id="01001", properties={"NAME": "Ñ\0", "AREA": 1.25, "NEW": [1]}, geometry=point),
        feature(id=2, properties={"NAME": None, "_x": True}),
        feature(properties=None),
    ]
    frame = read_geojson(geojson(tmp_path, features))
    assert frame.rows(named=True) == [
        {"_source_row": 1, "id": "01001", "NAME": "Ñ\u2400", "AREA": "1.25", "NEW": "[1]", "source_x": None,
         "geometry": '{"type":"Point","coordinates":[1.5,2]}'},
        {"_source_row": 2, "id": "2", "NAME": None, "AREA": None, "NEW": None, "source_x": "true", "geometry": None},
        {"_source_row": 3, "id": None, "NAME": None, "AREA": None, "NEW": None, "source_x": None, "geometry": None},
    ]  # fmt: skip


def test_a_property_called_id_is_the_id(tmp_path: Path) -> None:
    """As geopandas writes a table with such a column; the feature's own is its position."""
    frame = read_geojson(geojson(tmp_path, [feature(id="0", properties={"id": 101})]))
    assert frame.select("id", "feature_id").rows() == [("101", "0")]


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    path = geojson(tmp_path, '{"features": [{"id": "a\\ud800b", "properties": {}}]}')
    assert read_geojson(path)["id"].to_list() == ["a?b"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("", "not complete JSON", id="empty"),
        pytest.param("<html></html>", "not complete JSON", id="html"),
        pytest.param(
            '{"type":"FeatureCollection","features":[{"id":"1","prop', r"not complete JSON \(line 1", id="truncated"
        ),
        pytest.param("[1, 2]", "not a GeoJSON FeatureCollection", id="other json"),
        pytest.param('{"features": [1]}', "not a GeoJSON FeatureCollection", id="features that are none"),
        pytest.param('{"features": [{"properties": [1]}]}', "not a GeoJSON FeatureCollection", id="properties"),
        pytest.param("[" * 100_000, "nested too deeply", id="nested"),
        pytest.param("1" * 5000, "a number with too many digits", id="number"),
        pytest.param(
            '{"features": [{"properties": {"geometry": 1}}]}', r"\['geometry'\] occur more than once", id="twice"
        ),
    ],
)
def test_what_is_no_feature_collection_is_refused(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(SourceRefusedError, match=f"areas.geojson.*{why}.*last good .* stays"):
        read_geojson(geojson(tmp_path, content))
