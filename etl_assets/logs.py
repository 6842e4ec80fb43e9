"""What is written for people to read, in logs and in messages: without secrets, and with nothing in it that acts."""

from __future__ import annotations

import logging
from collections.abc import Collection

from etl_assets.settings import settings


def plain(text: str, length: int | None = None, secrets: Collection[str] | None = None) -> str:
    """Text as text: signs that a terminal would act on are replaced, secrets are left out, and it is cut to a length.

    A message may quote what a source sent, and an error of a library the address that it was given. `secrets` are
    those of the settings, where they are not given.
    """
    # The longest first: of one that holds another, the rest would be left.
    for secret in sorted(settings().secrets() if secrets is None else secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = "".join(" " if sign == "\t" else sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
    return text if length is None or len(text) <= length else f"{text[: length - 1]}…"


class Messages(logging.Formatter):
    """What is logged, for a terminal: without the numbers of run and step that Dagster writes before it."""

    def format(self, record: logging.LogRecord) -> str:
        """The message as it was given, and where an error was raised."""
        return plain(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a Formatter's
        """The message as it was given."""
        meta = getattr(record, "dagster_meta", None)
        return str(meta["orig_message"]) if meta else super().formatMessage(record)
