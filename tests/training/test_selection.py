"""Which checkpoint is exported: each rule on rows made by hand, and the export of a run by them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from export import main
from infogan.errors import UserError
from tests.conftest import assert_user_error, here
from training.checks import RULES
from training.exporting import export, load_trunk
from training.run import checkpoint_config, checkpoints, load_checkpoint
from training.selection import RULE_FUNCTIONS, Candidate, candidates, choose, choose_all, read_rows, score, table


def curve(kimg: float, g: float, real: float, fake: float) -> dict[str, Any]:
    losses = {"loss/g": g, "loss/d_real": real, "loss/d_fake": fake}
    return {"images_seen": round(kimg * 1000), **losses, "train/images_per_second": 9.0}


def probed(kimg: float, **figures: float) -> dict[str, Any]:
    named = {f"probe/{name}": value for name, value in figures.items()}
    return {"images_seen": round(kimg * 1000), "checkpoint": f"kimg-{int(kimg):06d}.ckpt", **named}


ROWS = [
    *(curve(5, 2.0, 1.0, 1.6), curve(10, 1.0, 1.0, 1.4)),
    probed(10.016, rankme=90.0, recall_at_1=0.40, precision_at_5=0.70),
    curve(20, 0.5, 1.0, 1.3),
    probed(20.016, rankme=120.0, recall_at_1=0.35, precision_at_5=0.72),
    curve(30, 0.6, 1.0, 1.1),
    probed(30.016, rankme=110.0, recall_at_1=0.40, precision_at_5=0.71),
    curve(40, 2.0, 1.0, 1.0),
    probed(40.016),
]
NAMES = [f"kimg-{kimg:06d}.ckpt" for kimg in (10, 20, 30, 40)]


def test_every_rule_of_the_config_is_one() -> None:
    assert tuple(RULE_FUNCTIONS) == RULES


def test_candidates_carry_what_led_to_them() -> None:
    found = candidates(ROWS, NAMES)
    assert [c.checkpoint for c in found] == NAMES
    assert [c.images_seen for c in found] == [10016, 20016, 30016, 40016]
    assert found[0].losses == {"loss/g": 1.5, "loss/d_real": 1.0, "loss/d_fake": 1.5} and found[0].gaps == (0.5, 0.5)
    assert found[0].probe == {"probe/rankme": 90.0, "probe/recall_at_1": 0.4, "probe/precision_at_5": 0.7}
    assert found[3].probe == {}
    assert candidates(ROWS, []) == []


def test_a_checkpoint_that_is_gone_still_ends_an_interval() -> None:
    found = candidates(ROWS, [NAMES[0], NAMES[2]])
    assert [c.checkpoint for c in found] == [NAMES[0], NAMES[2]]
    assert found[1].losses["loss/g"] == 0.6


def test_the_last_line_of_a_name_counts() -> None:
    rows = [curve(0.016, 1, 1, 1), probed(0.016, rankme=1.0), curve(0.024, 3, 1, 1), probed(0.024, rankme=2.0)]
    (found,) = candidates(rows, ["kimg-000000.ckpt"])
    assert found.images_seen == 24 and found.probe == {"probe/rankme": 2.0} and found.losses["loss/g"] == 2


def test_checkpoints_without_lines_are_candidates() -> None:
    rows = [curve(9, 3, 1, 1), curve(10.048, 1, 1, 1), curve(20.032, 5, 1, 1)]
    first, second, third = candidates(rows, ["kimg-000030.ckpt", "kimg-000010.ckpt", "kimg-000020.ckpt", "kimg-x.ckpt"])
    assert (first.images_seen, first.losses["loss/g"], first.probe) == (10_000, 2, {})
    assert (second.images_seen, second.losses["loss/g"]) == (20_000, 5)
    assert (third.images_seen, third.losses, third.gaps) == (30_000, {}, None)
    assert choose("last", [first, second, third]).checkpoint == "kimg-000030.ckpt"
    more = candidates([], ["kimg-000030.ckpt", "kimg-000030_560.ckpt", "kimg-000031.ckpt"])
    assert [one.images_seen for one in more] == [30_000, 30_560, 31_000]
    assert choose("paper_window", [first, second, third]).checkpoint == "kimg-000010.ckpt"


def test_figures_that_are_no_numbers_count_as_missing() -> None:
    (found,) = candidates([probed(10, rankme=float("nan"), recall_at_1=None)], ["kimg-000010.ckpt"])  # type: ignore
    assert found.probe == {}


@pytest.mark.parametrize(
    ("rule", "checkpoint", "reason"),
    [
        ("last", NAMES[3], "the newest of 4"),
        (
            "paper_window",
            NAMES[2],
            "of 2 with loss/g below loss/d_real, .* smallest there: 0.1, next 0.3 at kimg 20.016",
        ),
        ("rankme", NAMES[1], "probe/rankme is highest there: 120, next 110 at kimg 30.016"),
        ("recall", NAMES[2], "probe/recall_at_1 is highest there: 0.4, next 0.4 at kimg 10.016"),
        ("probe", NAMES[1], "probe/precision_at_5 is highest there: 0.72, next 0.71 at kimg 30.016"),
    ],
)
def test_rules(rule: str, checkpoint: str, reason: str) -> None:
    choice = choose(rule, candidates(ROWS, NAMES))
    assert (choice.rule, choice.checkpoint) == (rule, checkpoint)
    assert re.fullmatch(reason, choice.reason)


def test_without_a_window_the_nearest_to_it() -> None:
    rows = [curve(10, 2.0, 1.0, 1.0), curve(20, 1.2, 1.0, 1.9), curve(30, 1.4, 1.0, 1.0)]
    choice = choose("paper_window", candidates(rows, NAMES[:3]))
    assert choice.checkpoint == NAMES[1]
    assert choice.reason.startswith("none has loss/g below loss/d_real") and "0.2, next 0.4 at kimg 30" in choice.reason


def test_of_equal_scores_the_later() -> None:
    tied = [Candidate(name, i, {}, {"probe/rankme": 5.0}) for i, name in enumerate(NAMES)]
    assert choose("rankme", tied).checkpoint == NAMES[3]
    assert choose("rankme", tied[:1]).reason == "probe/rankme is highest there: 5, no other"


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("paper_window", "loss/g and loss/d_real and loss/d_fake"),
        ("rankme", "probe/rankme"),
        ("recall", "probe/recall_at_1"),
        ("probe", "probe/precision_at_5"),
    ],
)
def test_a_rule_without_its_figures_is_refused(rule: str, missing: str) -> None:
    bare = [Candidate(NAMES[0], 10_000, {"loss/g": 1.0}, {})]
    with pytest.raises(UserError, match=f"rule {rule}: no checkpoint .* {missing} .*--rule last"):
        choose(rule, bare)
    assert score(rule, bare[0]) is None and score("last", bare[0]) == 10_000
    assert [choice.rule for choice in choose_all("last", bare)] == ["last"]
    with pytest.raises(UserError, match="no such rule"):
        choose("best", bare)


def test_scores_are_what_the_rules_go_by() -> None:
    found = candidates(ROWS, NAMES)
    assert [score("paper_window", c) for c in found] == pytest.approx([-0.5, -0.3, -0.1, 0.0])
    assert [score("rankme", c) for c in found] == [90, 120, 110, None]


def test_the_table_shows_all_candidates_and_choices() -> None:
    found = candidates(ROWS, NAMES)
    head, *lines = table(found, choose_all("recall", found)).splitlines()
    assert head.split()[:4] == ["kimg", "loss/g", "loss/d_real", "loss/d_fake"] and head.endswith("chosen by")
    assert "P@5" in head and "other product" not in head  # nobody measured that
    assert [line.split()[0] for line in lines] == ["10.016", "20.016", "30.016", "40.016"]
    assert lines[0].endswith("0.700") and lines[3].endswith("–  last")
    assert lines[1].endswith("rankme, probe") and lines[2].endswith("recall ← exported, paper_window")
    assert {len(line[: line.rindex("0.7")]) for line in lines[:3]} == {len(lines[0]) - 5}, "columns are not aligned"


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    whole = "".join(json.dumps(row) + "\n" for row in ROWS)
    for cut in ('{"images_seen": 5', '{"images_seen": 5, "loss/g": NaN', '"\xff', "7", "{}", "[]"):
        path.write_text(whole + cut, encoding="latin-1")
        assert read_rows(path) == ROWS


@pytest.fixture
def probed_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with three checkpoints, the middle one best by RankMe; recall was measured at the first."""
    copy = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("extractor*", "selection.json")))
    (checkpoint,) = checkpoints(copy)
    for name in ("kimg-000001.ckpt", "kimg-000002.ckpt"):
        shutil.copy(checkpoint, copy / name)
    rows = [row for row in read_rows(copy / "metrics.jsonl") if "checkpoint" not in row]
    rows += [probed(0.048, rankme=9.0, recall_at_1=0.1), probed(1.0, rankme=11.0), probed(2.0, rankme=10.0)]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"images_se')
    return copy


def test_an_export_shows_and_keeps_the_selection(
    probed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export.py", str(probed_run), "--rule", "rankme", "--output", f"{tmp_path}/out"])
    main()
    *lines, empty, choice, output = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kimg", "0.048", "1", "2"] and empty == ""
    reason = "probe/rankme is highest there: 11, next 10 at kimg 2"
    assert choice == f"kimg-000001.ckpt by the rule rankme: {reason}"
    assert output == str(tmp_path / "out")
    kept = json.loads((probed_run / "selection.json").read_text())
    assert (kept["rule"], kept["checkpoint"], kept["reason"]) == ("rankme", "kimg-000001.ckpt", reason)
    assert kept["choices"] == {
        "rankme": "kimg-000001.ckpt",
        "last": "kimg-000002.ckpt",
        "paper_window": "kimg-000000.ckpt",
        "recall": "kimg-000000.ckpt",
    }
    assert [row["images_seen"] for row in kept["candidates"]] == [48, 1000, 2000]
    assert kept["candidates"][0]["probe/recall_at_1"] == 0.1 and "loss/g" in kept["candidates"][0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`kimg-000001.ckpt`, was taken by the rule `rankme`: {reason}." in card


def test_the_runs_own_rule_or_another(probed_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def stop(path: Path) -> None:
        taken.append(path.name)
        raise UserError("far enough")

    monkeypatch.setattr("training.exporting.load_checkpoint", stop)

    def choice(rule: str | None) -> str:
        with pytest.raises(UserError, match="far enough"):
            export(probed_run, None, None, rule)
        return taken[-1]

    assert choice(None) == choice("recall") == "kimg-000000.ckpt"
    config = probed_run / "config.yaml"
    config.write_text(config.read_text().replace("selection: recall", "selection: rankme"))
    assert choice(None) == "kimg-000001.ckpt" and choice("last") == "kimg-000002.ckpt"
    config.unlink()
    assert choice(None) == "kimg-000002.ckpt"


def test_selections_that_cannot_be_made(probed_run: Path) -> None:
    assert_user_error(here(main, str(probed_run), "--rule", "probe"), "rule probe", "probe/precision_at_5")
    newest = checkpoints(probed_run)[-1]
    with pytest.raises(UserError, match=r"kimg-000002\.ckpt: a checkpoint"):
        export(newest, None, None, "last")
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"kimg-000002\.ckpt: truncated.*or export another"):
        export(probed_run, None, None, "last")
    assert not (probed_run / "selection.json").exists()


def test_the_averaged_trunk_is_taken_where_there_is_one(run: Path) -> None:
    path = checkpoints(run)[-1]
    checkpoint = load_checkpoint(path)
    config = checkpoint_config(checkpoint, path)
    trained = load_trunk(checkpoint, config, path).state_dict()
    averaged = {f"ema_discriminator.trunk.{name}": weight * 0.5 for name, weight in trained.items()}
    checkpoint["state_dict"] |= averaged
    for name, weight in load_trunk(checkpoint, config, path).state_dict().items():
        assert torch.equal(weight, averaged[f"ema_discriminator.trunk.{name}"].to(weight.dtype))
