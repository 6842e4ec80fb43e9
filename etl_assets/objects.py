"""Object stores by their URL: a folder, or a bucket and prefix. One code path for both, through obstore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, ObjectStore, from_url


def local_folder(url: str) -> Path | None:
    """The folder that a URL names (`file:///folder`, or a plain path); None for a bucket."""
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url else Path(url).expanduser().resolve()


def object_store(url: str) -> ObjectStore:
    """The store at a URL; a folder is made where there is none.

    Endpoint, region and credentials of S3 come from the environment, as AWS tools take them.
    """
    folder = local_folder(url)
    if folder is not None:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)  # of folders without an object
    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options |= {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
    return from_url(url, **options)
