"""`./dev chaos`: runs killed at moments of all kinds, then the database and the S3 server, and what came of it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from moto.server import ThreadedMotoServer
from rich.console import Console
from rich.progress import track

from etl_assets.local.postgres import Cluster
from etl_assets_tests.chaos.campaign import Campaign, moments
from etl_assets_tests.chaos.proxy import Proxy
from etl_assets_tests.chaos.world import world

_FROM_OUTSIDE = 0.2


def main() -> int:
    """Do it; 1 if anything was lost, doubled or seen half."""
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="runs that are killed (default: 100)")
    parser.add_argument("--servers", type=int, default=20, help="times a server is killed (default: 20)")
    parser.add_argument("--seed", type=int, default=None, help="for the same moments again")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    console, chance, started = Console(), random.Random(seed), time.monotonic()
    console.print(f"seed {seed}")
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="etl-chaos-") as folder, _cluster(Path(folder)) as cluster:
        with world(_made(folder, "local"), cluster) as local:
            campaign = Campaign(local)
            campaign.prepare()
            outside = round(given.moments * _FROM_OUTSIDE)
            chosen = moments(seed)
            for what, number, kill in (
                ("runs, two in a row", given.moments - outside, lambda: campaign.kill_at(next(chosen), next(chosen))),
                ("runs, at any time", outside, lambda: campaign.kill_after(chance.random())),
            ):
                for _ in track(_killed(campaign, number, kill), what, total=number, console=console):
                    pass
            for _ in track(range(given.servers // 2), "the database", console=console):
                campaign.lose("the database", lambda: _crash(cluster), cluster.start, chance.random())
            faults += _report(console, "lake in a folder", campaign)
        with _s3() as (proxy, settings), world(_made(folder, "s3"), cluster, **settings) as remote:
            campaign = Campaign(remote)
            campaign.prepare()
            for _ in track(range(given.servers - given.servers // 2), "the S3 server", console=console):
                campaign.lose("the S3 server", proxy.kill, proxy.start, chance.random())
            faults += _report(console, "lake on S3", campaign)
    for fault in faults:
        console.print(f"FAULT {fault}", style="red", markup=False)
    console.print(f"{len(faults)} faults, {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


def _killed(campaign: Campaign, number: int, kill: Callable[[], None]) -> Iterator[int]:
    """Kill until so many runs have died; one that has less to do than it took to get to its moment ends in peace."""
    wanted = campaign.killed + number
    while (before := campaign.killed) < wanted:
        kill()
        yield from range(before, campaign.killed)


def _report(console: Console, what: str, campaign: Campaign) -> list[str]:
    console.print(
        f"{what}: {campaign.killed} kills, {campaign.rounds} states compared with the undisturbed ones, "
        f"{campaign.looks} looks of a reader, {len(campaign.faults)} faults"
    )
    return campaign.faults


def _made(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


@contextlib.contextmanager
def _cluster(folder: Path) -> Generator[Cluster]:
    server = Cluster(folder / "postgres")
    server.start()
    yield server
    server.stop(immediate=True)


def _crash(cluster: Cluster) -> None:
    """Kill the database's first process; the others notice, and end at once."""
    process = int((cluster.home / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def _s3() -> Generator[tuple[Proxy, dict[str, str]]]:
    """An S3 server, and before it what can be killed without what is stored being lost."""
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    proxy.start()
    settings = {
        "AWS_ACCESS_KEY_ID": "chaos",
        "AWS_SECRET_ACCESS_KEY": "chaos",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "lake_url": "s3://chaos/lake",
    }
    os.environ |= {name: value for name, value in settings.items() if name.startswith("AWS_")}
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="chaos")
    yield proxy, settings
    proxy.kill()
    server.stop()


if __name__ == "__main__":
    sys.exit(main())
