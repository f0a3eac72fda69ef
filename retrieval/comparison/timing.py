"""Systems timed side by side: short turns in many rounds, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.decoding import tracked

TURN, MOST = 0.1, 20  # seconds, calls
Call = Callable[[int], Any]  # with the number of a photo


@dataclass
class System:
    """Takes turns: some calls of each step, each with so many photos, in one round of `every`."""

    name: str
    steps: dict[str, Call]
    photos: int = 1
    every: int = 1

    def turn(self) -> Turn:
        count = 1
        if self.every == 1:
            pace = _seconds(next(iter(self.steps.values())), 0) * len(self.steps)
            count = max(1, min(MOST, int(TURN / pace)))
        # Photo by photo: a step on its own would find its data in the caches, which in use it does not.
        times = [{step: _seconds(call, i) for step, call in self.steps.items()} for i in range(count)]
        ms = {step: 1000 * statistics.median(part[step] for part in times) / self.photos for step in self.steps}
        return Turn(self.name, ms)


@dataclass
class Turn:
    """Median milliseconds a photo by step."""

    system: str
    ms: dict[str, float]


class Rounds:
    """The rounds that count; in each of them `others` take their turns after one of each of `ours`."""

    def __init__(self, ours: Sequence[System], others: Sequence[System], rounds: int) -> None:
        self.turns: list[list[Turn]] = []
        for number in tracked(range(rounds + 1), "timing"):
            turns = []
            for place, other in enumerate(others):
                if other.every == 1 or (number and (number + place) % other.every == 0):
                    turns += [system.turn() for system in (*ours, other)]
            turns += [system.turn() for system in ours]
            self.turns += [turns] if number else []

    def each(self, name: str, step: str) -> list[float]:
        """Milliseconds a photo, of every round that the system took part in."""
        times = [[turn.ms[step] for turn in turns if turn.system == name] for turns in self.turns]
        return [statistics.median(part) for part in times if part]

    def ms(self, name: str, step: str = "network") -> float:
        return statistics.median(self.each(name, step))

    def ratio(self, name: str, base: str, step: str = "network") -> float:
        """How many times as long it takes as `base` in its turn before."""
        ratios, last = [], {}
        for turn in (turn for turns in self.turns for turn in turns):
            last[turn.system] = turn.ms[step]
            if turn.system == name:
                ratios.append(last[name] / last[base])
        return statistics.median(ratios)


def _seconds(call: Call, number: int) -> float:
    began = time.perf_counter()
    call(number)
    return time.perf_counter() - began
