"""Alerts: what is wrong now, reported once per cause to every receiver.

At each tick the sensor compares what is wrong (`problems`) with what it has reported. A cause is reported again if it
comes back after it was gone. A receiver that was down catches up at the next tick, without the others being told twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import dagster as dg

from etl_assets.automation.problems import Problem, problems, some
from etl_assets.automation.receivers import DeliveryError, Receiver, receivers

#: Messages to a receiver in one tick, which has a time limit.
_AT_ONCE = 5


def alerts_sensor() -> dg.SensorDefinition:
    """The sensor that tells the receivers what is wrong."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports what is wrong to webhook, e-mail and SNS: once per cause, and again if it returns.",
    )
    def tell(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        told_to, misconfigured = receivers()
        found = problems(context.instance)
        if not told_to:
            nobody = "No alerts are sent: set ETL_ALERT_WEBHOOK_URL, ETL_ALERT_SMTP_URL or ETL_ALERT_SNS_TOPIC"
            return dg.SkipReason(f"{_summary(found)}. {' '.join(misconfigured) or nobody}")
        told, failures = deliver(found, told_to, json.loads(context.cursor or "{}"))
        context.update_cursor(json.dumps(told))
        for failure in failures:
            context.log.error(failure)
        return dg.SkipReason(
            "; ".join(
                [
                    _summary(found),
                    *(f"{f}: it is tried again at the next tick" for f in failures),
                    *misconfigured,
                ]
            )
        )

    return tell


def deliver(
    found: Sequence[Problem], told_to: Iterable[Receiver], told: dict[str, list[str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Tell each receiver what it has not been told; return who now knows of which cause, and what went wrong.

    `told` maps each cause to the receivers that know of it. A cause that is gone is forgotten. A receiver that fails is
    left alone until the next call, and each gets only a few messages per call, because a tick has a time limit.
    """
    now = {problem.cause: list(told.get(problem.cause, [])) for problem in found}
    failures = []
    for receiver in told_to:
        for problem in [p for p in found if receiver.name not in now[p.cause]][:_AT_ONCE]:
            try:
                receiver.send(problem.message())
            except DeliveryError as error:
                failures.append(str(error))
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must not be told again because of it
                # Without the error's text: it may hold the address with its password.
                failures.append(f"{receiver.name} did not accept the message ({type(error).__name__})")
                break
            now[problem.cause].append(receiver.name)
    return now, failures


def _summary(found: Sequence[Problem]) -> str:
    """How many problems there are, and which."""
    titles = some([problem.message().title for problem in found])
    return f"Problems: {len(found)}" + (f" ({titles})" if found else "")
