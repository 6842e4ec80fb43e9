"""The moments of a test: what dies, where, and what has to be so afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from etl_assets_tests.chaos.victim import POINTS
from etl_assets_tests.chaos.world import FIRST, SECOND, Known, Reader, Seen, World

#: Every so many kills, the run begins with nothing instead of with another publication.
_ANEW = 4


@dataclass(frozen=True)
class Moment:
    """When a run is killed: at a call of a point; `share` says at which, from the first (0) to the last (1)."""

    point: str
    share: float


@dataclass
class Campaign:
    """Kills runs and servers, again and again, and lets a run that nobody disturbs do what they left undone."""

    world: World
    known: Known = field(default_factory=Known)
    undisturbed: dict[str, Seen] = field(default_factory=dict)
    calls: dict[tuple[str, bool], dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    rounds: int = 0
    killed: int = 0
    looks: int = 0

    def prepare(self) -> None:
        """See what undisturbed runs give, and how often they pass each point."""
        for date, anew in ((FIRST, True), (SECOND, False), (FIRST, False)):
            self.world.publish(date)
            ended = self._good_run()
            self.calls[date, anew], self.seconds = ended["passed"], ended["seconds"]
            self.undisturbed[date] = self.world.look()
            self.known.learn(self.undisturbed[date])
        assert self.undisturbed[FIRST] != self.undisturbed[SECOND]

    def kill_at(self, *moments: Moment) -> None:
        """Let a run die at each of some moments, one after another, before one is left alone."""

        def kill(date: str, anew: bool) -> Iterator[str]:
            for moment in moments:
                calls = self.calls[date, anew].get(moment.point, 0)
                call = min(1 + int(moment.share * calls), max(calls, 1))
                ended = self.world.run(point=moment.point, call=call)
                self.killed += ended["status"] == -signal.SIGKILL
                yield f"{moment.point} (call {call} of {calls})"

        self._round(kill)

    def kill_after(self, share: float) -> None:
        """Let a run die from outside, after a share of the time that it takes."""

        def kill(_date: str, _anew: bool) -> Iterator[str]:
            process = self.world.start()
            alarm = threading.Timer(share * self.seconds, _kill, (process,))
            alarm.start()
            self.killed += self.world.ended()["status"] == -signal.SIGKILL
            alarm.cancel()
            yield f"after {share * self.seconds:.2f} s"

        self._round(kill)

    def lose(self, what: str, take_away: Callable[[], None], give_back: Callable[[], None], share: float) -> None:
        """Kill a server after a share of the time that a run takes, and start it again when the run has ended."""

        def lose(_date: str, _anew: bool) -> Iterator[str]:
            self.world.start()
            alarm = threading.Timer(share * self.seconds, take_away)
            alarm.start()
            back = threading.Timer(share * self.seconds + 1, give_back)
            back.start()
            self.world.ended()
            alarm.join()
            back.join()
            self.killed += 1
            yield f"{what} after {share * self.seconds:.2f} s"

        self._round(lose)

    def _round(self, disturb: Callable[[str, bool], Iterator[str]]) -> None:
        """Publish something, disturb who takes it up, let another run do it; a reader looks on all the time."""
        self.rounds += 1
        anew = self.rounds % _ANEW == 0
        date = SECOND if self.world.shows() == FIRST and not anew else FIRST
        if anew:
            self.world.empty()
        self.world.publish(date)
        reader = Reader(self.world, self.known)
        with reader.looking_on():
            what = "killed at " + ", then ".join(disturb(date, anew))
            self._good_run()
        self.looks += reader.looks
        self.faults.extend(f"{what}: a reader saw this: {fault}" for fault in dict.fromkeys(reader.faults))
        there, wanted = self.world.look().filled(), self.undisturbed[date].filled()
        for name, found in there.items():
            differ = [p for p in found.keys() | wanted[name].keys() if found.get(p) != wanted[name].get(p)]
            if differ:
                self.faults.append(f"{what}: in the end, the {name} differs at {sorted(differ)[:5]}")

    def _good_run(self) -> dict[str, Any]:
        ended = self.world.run()
        if ended["status"] != 0 or not ended["done"]:
            self.faults.append(f"a run that nobody disturbed ended so: {ended}")
        return ended


def moments(seed: int) -> Iterator[Moment]:
    """One moment after another, spread over all points; the same for the same seed."""
    chance = random.Random(seed)
    points = chance.sample(list(POINTS), len(POINTS))
    return (Moment(point, chance.random()) for point in itertools.cycle(points))


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(process, signal.SIGKILL)
