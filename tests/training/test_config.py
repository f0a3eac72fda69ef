"""Settings: the schema's defaults, overrides, and one clear line for each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from infogan.errors import UserError
from training.config import Config, config_difference, flat, load_config, photo_roots

PAPER = "configs/paper.yaml"


def test_the_papers_file_states_every_key_and_is_the_default() -> None:
    written = OmegaConf.load(PAPER)
    assert config_difference(OmegaConf.structured(Config), load_config(PAPER, [])) == []
    assert flat(written).keys() == flat(OmegaConf.structured(Config)).keys()  # type: ignore[arg-type]


def test_overrides_win_and_lists_are_paths() -> None:
    config = load_config(PAPER, ["train.kimg=0.5", "data.root=[a,/b/c.zip]"])
    assert config.train.kimg == 0.5
    assert photo_roots(config) == [str(Path("a").absolute()), "/b/c.zip"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.kimgs=3", "unknown key train.kimgs; did you mean train.kimg?"),
        ("train.batchsize=3", "did you mean train.batch_size?"),
        ("trian.kimg=3", "did you mean train?"),
        ("data.rot=x", "did you mean data.root?"),
        ("train.kimg=many", "train.kimg"),
        ("train.batch_size=1.5", "train.batch_size"),
        ("train.batch_size=0", "train.batch_size is 0; it must be 2 or more"),
        ("train.lr_generator=-1", "train.lr_generator is -1"),
        ("train.kimg=nan", "train.kimg is nan"),
        ("train.kimg=inf", "train.kimg is inf"),
        ("train.devices=0", "auto, or a number"),
        ("train.nodes=0", "1 or more"),
        ("train.selection=best", "one of last"),
        ("train.selection=probe", "needs probe.root"),
        ("probe.root=somewhere", "together with probe.root"),
        ("probe.photos=3", "16 or more"),
        ("train.ema_kimg=-1", "0 or more"),
        ("train.precision=16", "32-true"),
        ("data.fit=crop", "pad, stretch"),
        ("model.trunk.strides=[2,2]", "as long as"),
        ("model.trunk.dropout=1", "in 0"),
        ("model.generator.channels=[4,4,4]", "3 the last"),
        ("model.codes=0", "1 or more"),
        ("seed=-1", "0 or more"),
        ("seed=99999999999999999999999", "less than"),
        ("train.lr_generator=inf", "train.lr_generator is inf"),
        ("train.mi_weight=nan", "train.mi_weight is nan"),
        ("train.checkpoint_kimg=0.5", "1 or more"),
        ("train.checkpoint_kimg=.inf", "1 or more"),
        ("train.grid_kimg=.inf", "one photo"),
        ("train.status_kimg=.inf", "one photo"),
        ("name=a/b", "letters"),
        ("data.root=\udcff", "not UTF-8"),
        ("data.root=${oc.env:NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
        ("train.betas=[1", "YAML value"),
        ("train.betas[0]=0.3", "train.betas"),
        ("train.betas={a: 1}", "train.betas"),
        ("[=3", "[=3"),
        ("train.status_kimg=1e-320", "one photo"),
        ("kimg", "neither"),
    ],
)
def test_each_mistake_is_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(PAPER, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_are_taken_as_they_are_typed() -> None:
    config = load_config(PAPER, ["data.root=/photos/shoes #2", "run.dir=00012", "data.cache=1e3"])
    assert (config.data.root, config.run.dir, config.data.cache) == ("/photos/shoes #2", "00012", "1e3")
    assert load_config(PAPER, ["run.dir=null"]).run.dir is None


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"gone\.yaml: no such config; there are configs/best\.yaml, configs/demo\.yaml"
    ):
        load_config("gone.yaml", [])
    for text in ("a: [1", "3", "- 1\n- 2\n", "train: 3\n", "train:\n  kimgs: 3\n", "\x00"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError) as caught:
            load_config(tmp_path / "bad.yaml", [])
        assert "\n" not in str(caught.value)
    (tmp_path / "bad.yaml").write_bytes("name: ä".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        load_config(tmp_path / "bad.yaml", [])


def test_photos_must_be_named() -> None:
    with pytest.raises(UserError, match="is not set"):
        photo_roots(load_config(PAPER, []))


def test_only_what_cannot_change_a_run_may_differ() -> None:
    one = load_config(PAPER, ["data.root=x"])
    assert config_difference(one, load_config(PAPER, ["data.root=x", "train.kimg=9", "run.dir=y"])) == []
    assert config_difference(one, load_config(PAPER, ["data.root=x", "seed=1"])) == ["seed"]
