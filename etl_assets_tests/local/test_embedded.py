"""The embedded default: what it shows, from one command to the next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import requests

from etl_assets.local import embedded
from etl_assets.settings import explicit_settings, home


def test_a_folder_of_recordings_is_shown_until_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without the variable does not take the sources back to the project's own sample."""

    def shown() -> str:
        url = embedded._start_sources(explicit_settings())
        answer = requests.get(f"{url}/libraries/libraries.csv", timeout=10)
        return answer.text if answer.ok else ""

    def name(folder: Path) -> None:
        monkeypatch.setenv("ETL_SAMPLE_DATA", str(folder))

    for text in ("one", "two"):
        file = tmp_path / text / "libraries" / "2025-01-01" / "libraries.csv"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    try:
        assert shown() == "", "the project's own sample has no libraries"
        name(tmp_path / "one")
        assert shown() == "one"
        monkeypatch.delenv("ETL_SAMPLE_DATA")
        assert shown() == "one"
        name(tmp_path / "two")
        assert shown() == "two"
        shutil.rmtree(home() / "sample")
        name(home() / "sample")
        assert shown() == ""
        assert (home() / "sample" / "protest_events").is_dir(), "it is written wherever it is named"
        monkeypatch.delenv("ETL_SAMPLE_DATA")
        assert shown() == ""
    finally:
        embedded.source_server().stop()
