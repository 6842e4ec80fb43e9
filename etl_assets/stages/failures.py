"""Why something failed, for a person: what our own code said, not what Dagster wraps it in."""

from __future__ import annotations

import dagster as dg
from dagster_shared.error import SerializableErrorInfo


def why_step_failed(event: dg.DagsterEvent) -> str:
    """Why a step failed, in a sentence: its `Failure`'s description, else what its innermost error says."""
    user = event.step_failure_data.user_failure_data
    return (user.description if user else None) or sentence(event.step_failure_data.error)


def sentence(error: SerializableErrorInfo | None) -> str:
    """What an error says; with its class if it is not ours, since that then says more than the message."""
    # Dagster's wrapper says where an error came from, not what it is.
    while error is not None and error.cause is not None and error.message.startswith("dagster."):
        error = error.cause
    text = error.message.strip() if error else "unknown"
    return text.partition(": ")[2] if text.startswith("etl_assets.") else text
