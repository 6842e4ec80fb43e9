"""Text for people, in logs and in messages: without secrets, and with nothing that a terminal would act on."""

from __future__ import annotations

import logging
from collections.abc import Collection

from etl_assets.settings import settings


def plain(text: str, length: int | None = None, secrets: Collection[str] | None = None) -> str:
    """Plain text: characters that a terminal would act on are replaced, secrets masked, and it is cut to `length`.

    A message may quote what a source sent, and a library's error the address that it was given. `secrets` defaults to
    those of the settings.
    """
    # The longest first: if a secret contains another, masking the shorter one first would leave the rest of it.
    for secret in sorted(settings().secrets() if secrets is None else secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = "".join(" " if sign == "\t" else sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
    return text if length is None or len(text) <= length else f"{text[: length - 1]}…"


class Messages(logging.Formatter):
    """Formats log records for a terminal: without the run and step ids that Dagster puts in front of the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The message as it was given, with the traceback of an error."""
        return plain(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a Formatter's
        """The message as it was given."""
        meta = getattr(record, "dagster_meta", None)
        return str(meta["orig_message"]) if meta else super().formatMessage(record)
