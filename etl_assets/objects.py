"""Object stores by their URL: a folder, or a bucket and prefix. One code path for both, through obstore."""

from __future__ import annotations

import os
import re
from functools import lru_cache
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
    """The store at a URL; a missing folder is made.

    Endpoint, region and credentials of S3 come from the environment or a profile, as AWS tools take them.
    """
    folder = local_folder(url)
    if folder is not None:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)  # deletes folders that have become empty
    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options |= {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
        if "AWS_ACCESS_KEY_ID" not in os.environ and (profile := _profile_name()):
            options |= _of_profile(profile)
    return from_url(url, **options)


def plain_message(error: Exception) -> str:
    """A store's error for a person: without debug details, and without the XML that S3 puts around its message."""
    text = str(error).partition("\n\nDebug source")[0]
    return re.sub(r"<\?xml.*<Code>(.*?)</Code>\s*<Message>(.*?)</Message>.*", r"\1: \2.", text, flags=re.DOTALL)


def _profile_name() -> str | None:
    """The AWS tools' profile to use, if there is one: obstore itself does not read profiles."""
    files = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    is_there = any(Path(os.environ.get(name, usual)).expanduser().exists() for name, usual in files.items())
    return os.environ.get("AWS_PROFILE", "default") if is_there else None


@lru_cache(maxsize=2)
def _of_profile(name: str) -> dict[str, Any]:
    """Region and credentials of a profile; credentials of a login or a role are included, and renewed in time."""
    import boto3  # here, since it takes a fifth of a second that most installations need not spend
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session(profile_name=None if name == "default" else name)
    known = {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys()
    region = {} if known or session.region_name is None else {"region": session.region_name}
    return region | ({"credential_provider": Boto3CredentialProvider(session)} if session.get_credentials() else {})
