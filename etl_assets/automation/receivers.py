"""The receivers of alerts: a webhook, people by e-mail, and an AWS SNS topic, each switched on by its own variable.

A receiver either takes a message or raises DeliveryError; `alerts` decides who is told what, and when again.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import unquote, urlsplit

import requests

from etl_assets.settings import settings

_SECONDS = 10
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
#: The longest subject that SNS takes, in characters.
_SUBJECT = 100


class DeliveryError(RuntimeError):
    """A receiver did not take a message; the text says which and why, without its address, which may be secret."""


@dataclass(frozen=True)
class Message:
    """A message in plain text; whatever a source wrote has already been made harmless."""

    title: str
    lines: Sequence[str]
    link: str

    def text(self) -> str:
        """The message without its title."""
        return "\n".join([*self.lines, self.link])


class Receiver(Protocol):
    """Takes messages."""

    @property
    def name(self) -> str:
        """What the cursor and the log call it."""
        ...

    def send(self, message: Message) -> None:
        """Hand a message over; raises DeliveryError."""
        ...


@dataclass(frozen=True)
class Webhook:
    """A Slack incoming webhook, or anything that takes the same JSON (Mattermost, Rocket.Chat, many bridges)."""

    url: str
    name: str = "webhook"

    def send(self, message: Message) -> None:
        """POST the message; anything but a success is an error."""
        lines = [f"*{_slack(message.title)}*", *map(_slack, message.lines), f"<{message.link}|Open in Dagster>"]
        try:
            response = requests.post(self.url, json={"text": "\n".join(lines)}, timeout=_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise DeliveryError(f"the webhook could not be reached ({type(error).__name__})") from None
        if response.status_code // 100 != 2:
            raise DeliveryError(f"the webhook answered HTTP {response.status_code}")


@dataclass(frozen=True)
class Mail:
    """People, through a mail server: `smtp://user:password@host:port` (TLS if it is offered) or `smtps://…`."""

    url: str
    to: Sequence[str]
    sender: str
    name: str = "e-mail"

    def send(self, message: Message) -> None:
        """Send one mail to all; a password is sent only over TLS or to this machine."""
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, self.sender, ", ".join(self.to)
        mail.set_content(message.text())
        try:
            with self._server() as server:
                self._introduce(server)
                server.send_message(mail)
        except (smtplib.SMTPException, OSError) as error:
            code = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
            raise DeliveryError(f"the mail server did not accept the message ({type(error).__name__}{code})") from None

    def _server(self) -> smtplib.SMTP:
        parts, tls = urlsplit(self.url), ssl.create_default_context()
        if parts.scheme == "smtps":
            return smtplib.SMTP_SSL(parts.hostname or "", parts.port or 465, timeout=_SECONDS, context=tls)
        return smtplib.SMTP(parts.hostname or "", parts.port or 25, timeout=_SECONDS)

    def _introduce(self, server: smtplib.SMTP) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "smtps":
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
                server.ehlo()
            elif parts.password and parts.hostname not in _LOOPBACK:
                raise DeliveryError("the mail server offers no TLS, and no password is sent unencrypted: use smtps://")
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))


@dataclass(frozen=True)
class Topic:
    """An AWS SNS topic; its region comes from its ARN, endpoint and credentials from where AWS tools take them."""

    arn: str
    name: str = "SNS"

    def send(self, message: Message) -> None:
        """Publish the message."""
        import boto3  # here: it takes a fifth of a second, which most installations need not spend
        import botocore.config
        import botocore.exceptions

        config = botocore.config.Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"max_attempts": 1})
        subject = message.title.encode("ascii", "replace").decode()[:_SUBJECT]
        try:
            client = boto3.client("sns", region_name=self.arn.split(":")[3], config=config)
            client.publish(TopicArn=self.arn, Subject=subject, Message=message.text())
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise DeliveryError(f"SNS did not accept the message ({type(error).__name__})") from None


def receivers() -> tuple[list[Receiver], list[str]]:
    """The configured receivers, and what is wrong with those that are only half configured."""
    configured = settings()
    found: list[Receiver] = []
    wrong: list[str] = []
    if configured.alert_webhook_url:
        found.append(Webhook(configured.alert_webhook_url.get_secret_value()))
    if configured.alert_smtp_url or configured.alert_email_to:
        to = [address.strip() for address in (configured.alert_email_to or "").split(",") if address.strip()]
        if configured.alert_smtp_url and to:
            found.append(Mail(configured.alert_smtp_url.get_secret_value(), to, configured.alert_email_from))
        else:
            wrong.append(
                "Alerts by e-mail need both: ETL_ALERT_SMTP_URL=smtp://user:password@host:port and "
                "ETL_ALERT_EMAIL_TO=somebody@example.org,somebody-else@example.org."
            )
    if configured.alert_sns_topic:
        if configured.alert_sns_topic.count(":") != 5:
            wrong.append("ETL_ALERT_SNS_TOPIC is not an ARN of the form arn:aws:sns:<region>:<account>:<topic>.")
        elif configured.alert_sns_topic.endswith(".fifo"):
            wrong.append("ETL_ALERT_SNS_TOPIC is a FIFO topic, which cannot notify people: use a standard topic.")
        else:
            found.append(Topic(configured.alert_sns_topic))
    return found, wrong


def _slack(text: str) -> str:
    """Text that Slack shows as it is: neither a link nor a mention of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
