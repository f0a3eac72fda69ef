"""Which checkpoint of a run to export, from what it logged. Only the rule `probe` looks at labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from infogan.errors import UserError

ADVERSARIAL = ("loss/g", "loss/d_real", "loss/d_fake")
FIGURES = {"rankme": "probe/rankme", "recall": "probe/recall_at_1", "probe": "probe/precision_at_5"}
HEADINGS = {
    "probe/rankme": "rankme",
    "probe/recall_at_1": "recall@1",
    "probe/precision_at_5": "P@5",
    "probe/precision_at_5_other_product": "other product",
    "probe/macro_precision_at_5_other_product": "macro (other)",
}


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be exported: its file's name, the mean losses that led to it, and its probe figures."""

    checkpoint: str
    images_seen: int
    losses: Mapping[str, float]
    probe: Mapping[str, float]

    @property
    def gaps(self) -> tuple[float, float] | None:
        """(loss/g − loss/d_real, |loss/d_fake − loss/d_real|); the paper's window is where the first is negative."""
        if not set(ADVERSARIAL) <= self.losses.keys():
            return None
        g, real, fake = (self.losses[name] for name in ADVERSARIAL)
        return g - real, abs(fake - real)


@dataclass(frozen=True)
class Choice:
    """A rule, the checkpoint it takes, and why, with the figures."""

    rule: str
    checkpoint: str
    reason: str


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; none where there is no file. A line that a kill has cut short is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("images_seen"), int):
            rows.append(row)
    return rows


def candidates(rows: Sequence[Mapping[str, Any]], existing: Iterable[str]) -> list[Candidate]:
    """The checkpoints that still exist, oldest first, with what the run logged of them.

    Losses are means over the curves' lines since the checkpoint before, whether that one still exists or not. A file
    that no line names, as in runs of older versions, has no probe figures; its images seen are those of its name.

    Args:
        rows: the lines of `metrics.jsonl`. Of several about one checkpoint, the last counts.
        existing: the names of the checkpoint files on disk.
    """
    existing = set(existing)
    lines = {row["checkpoint"]: row for row in rows if "checkpoint" in row}
    ends = {name: (row["images_seen"], row["images_seen"]) for name, row in lines.items()}
    for name in existing - set(lines):
        if match := re.fullmatch(r"kimg-(\d+)(?:_(\d+))?\.ckpt", name):
            first = int(match[1]) * 1000 + int(match[2] or 0)
            ends[name] = (first, first if match[2] else first + 999)  # short names are rounded down
    found, before = [], -1
    for name, (images_seen, end) in sorted(ends.items(), key=lambda item: item[1]):
        if name in existing:
            span = [row for row in rows if "checkpoint" not in row and before < row["images_seen"] <= end]
            found.append(Candidate(name, images_seen, _means(span), _finite(lines.get(name, {}), "probe/")))
        before = end
    return found


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    parts = [_finite(row, "loss/") for row in rows]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}


def _finite(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    figures = {name: value for name, value in row.items() if name.startswith(prefix) and value is not None}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def score(rule: str, candidate: Candidate) -> float | None:
    """What a rule goes by, larger for better; None where it was not measured. Of `paper_window`, minus gaps[1]."""
    if rule == "last":
        return candidate.images_seen
    if rule == "paper_window":
        return None if candidate.gaps is None else -candidate.gaps[1]
    return candidate.probe.get(FIGURES[rule])


def last(candidates: Sequence[Candidate]) -> Choice:
    """The newest."""
    return Choice("last", candidates[-1].checkpoint, f"the newest of {len(candidates)}")


def paper_window(candidates: Sequence[Candidate]) -> Choice:
    """Where loss/g < loss/d_real, the smallest |loss/d_fake − loss/d_real|; if nowhere, the nearest to that window."""
    measured = [(c, *c.gaps) for c in candidates if c.gaps is not None]
    inside = [(c, -gap) for c, window, gap in measured if window < 0]
    if inside:
        what = f"of {len(inside)} with loss/g below loss/d_real, |loss/d_fake − loss/d_real| is smallest there"
        return _largest("paper_window", inside, what)
    what = "none has loss/g below loss/d_real; loss/g − loss/d_real is smallest there"
    return _largest("paper_window", [(c, -window) for c, window, _ in measured], what, " and ".join(ADVERSARIAL))


def highest(rule: str, candidates: Sequence[Candidate]) -> Choice:
    """The largest of the probe's figure that `rule` goes by."""
    figure = FIGURES[rule]
    measured = [(c, c.probe[figure]) for c in candidates if figure in c.probe]
    return _largest(rule, measured, f"{figure} is highest there", figure)


def _largest(rule: str, scored: Sequence[tuple[Candidate, float]], what: str, needed: str = "") -> Choice:
    """The largest score; of equal ones the later."""
    if not scored:
        raise UserError(
            f"rule {rule}: no checkpoint here has {needed} in metrics.jsonl; use another, as with --rule last"
        )
    (best, value), *others = sorted(scored, key=lambda item: (-item[1], -item[0].images_seen))
    following = f"next {abs(others[0][1]):.4g} at kimg {others[0][0].images_seen / 1000:g}" if others else "no other"
    return Choice(rule, best.checkpoint, f"{what}: {abs(value):.4g}, {following}")


RULE_FUNCTIONS: dict[str, Callable[[Sequence[Candidate]], Choice]] = {
    "last": last,
    "paper_window": paper_window,
    **{rule: partial(highest, rule) for rule in FIGURES},
}


def choose(rule: str, candidates: Sequence[Candidate]) -> Choice:
    """What `rule` takes of one candidate or more.

    Raises:
        UserError: no such rule, or no candidate has the figures it needs.
    """
    if rule not in RULE_FUNCTIONS:
        raise UserError(f"rule {rule}: no such rule; choose one of {', '.join(RULE_FUNCTIONS)}")
    return RULE_FUNCTIONS[rule](candidates)


def choose_all(rule: str, candidates: Sequence[Candidate]) -> list[Choice]:
    """What `rule` takes, which must apply, then what every other rule that applies would take."""
    choices = [choose(rule, candidates)]
    for other in [other for other in RULE_FUNCTIONS if other != rule]:
        with suppress(UserError):
            choices.append(choose(other, candidates))
    return choices


def table(candidates: Sequence[Candidate], choices: Sequence[Choice]) -> str:
    """All candidates as aligned text; the last column says which rules chose a row. The first choice is exported."""
    losses = list(dict.fromkeys(name for c in candidates for name in c.losses))
    rows = [["kimg", *losses, "g − d_real", "|d_fake − d_real|", *HEADINGS.values(), "chosen by"]]
    for c in candidates:
        figures = [*map(c.losses.get, losses), *(c.gaps or (None, None)), *map(c.probe.get, HEADINGS)]
        chosen = [x.rule + " ← exported" * (x is choices[0]) for x in choices if x.checkpoint == c.checkpoint]
        cells = ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        rows.append([f"{c.images_seen / 1000:g}", *cells, ", ".join(chosen)])
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"–"}]
    widths = [max(map(len, column)) for column in columns[:-1]]
    lines = zip(*columns, strict=True)
    return "\n".join(
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )
