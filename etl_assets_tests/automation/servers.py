"""Real receivers of alerts on loopback: a webhook, a mail server, and AWS SNS as moto has it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from moto.server import ThreadedMotoServer


@dataclass
class Hook:
    """A webhook: what was posted, and the status that it answers with."""

    url: str
    posted: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200


@contextmanager
def webhook() -> Generator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hook.status == 200:
                hook.posted.append(json.loads(body))
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name there
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Hook(f"http://127.0.0.1:{server.server_port}/services/T0/B0/hush-hush")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hook
    server.shutdown()
    server.server_close()


@dataclass
class Mailbox:
    """A mail server that wants a login: its address, and what came."""

    url: str
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 aiosmtpd calls it so
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@contextmanager
def mail_server() -> Generator[Mailbox]:
    box = Mailbox("")

    def login(server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"etl", b"p@ssword"))

    with socket.socket() as unused:  # aiosmtpd does not say which port it was given
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    controller = Controller(
        box, hostname="127.0.0.1", port=port, authenticator=login, auth_required=True, auth_require_tls=False
    )
    controller.start()
    box.url = f"smtp://etl:p%40ssword@127.0.0.1:{port}"
    yield box
    controller.stop()


@dataclass
class Notified:
    """A topic, and the queue that its messages go on to."""

    endpoint: str
    arn: str
    queue: str

    def messages(self) -> list[dict[str, Any]]:
        """What was published since the last call."""
        sqs = client("sqs", self.endpoint)
        found = sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in found]


@contextmanager
def sns_topic() -> Generator[Notified]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    sns, sqs = client("sns", endpoint), client("sqs", endpoint)
    arn = sns.create_topic(Name="etl")["TopicArn"]
    queue = sqs.create_queue(QueueName="etl")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=attributes["QueueArn"])
    yield Notified(endpoint, arn, queue)
    server.stop()


def client(service: str, endpoint: str) -> Any:
    """An AWS client of the server's."""
    session: Any = boto3.Session("testing", "testing", region_name="eu-west-1")
    return session.client(service, endpoint_url=endpoint)
