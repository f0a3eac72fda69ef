"""What values of a recipe make sense."""

from __future__ import annotations

import math
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from infogan.errors import UserError
from infogan.photo import FITS

GROWTHS = ("even", "double")
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
RULES = ("last", "paper_window", "rankme", "recall", "probe")


def check_config(config: DictConfig) -> None:
    """Refuse values that make no sense, naming the key and what it must be.

    Raises:
        UserError: for the first such value.
    """
    model, train, neighbours, contrast = config.model, config.train, config.neighbours, config.contrast
    sees = model.trunk.directions > 0 and len(model.trunk.channels) > 0
    rules = [
        ("data.fit", config.data.fit in FITS, f"one of {', '.join(FITS)}"),
        ("name", re.fullmatch(r"[\w.-]+", config.name) is not None, "letters, digits, dots and dashes"),
        ("seed", 0 <= config.seed < 2**63, "0 or more, and less than 2⁶³"),
        ("model.codes", model.codes >= 1, "1 or more"),
        *_stage_rules(model, "trunk", needed=model.trunk.directions == 0, most=3 if sees else 2),
        *_stage_rules(model, "eyes", needed=False, most=2),
        *_edge_rules(model.trunk),
        ("model.trunk.input_size", _positive(model.trunk.input_size, 2), "two numbers, height and width"),
        ("model.trunk.dropout", 0 <= model.trunk.dropout <= 0.99, "in 0 … 0.99"),
        ("model.trunk.directions", model.trunk.directions >= 0, "0 or more"),
        ("model.trunk.framing", model.trunk.framing is None or 0 <= model.trunk.framing <= 1, "null or in 0 … 1"),
        ("model.trunk.straightening", model.trunk.straightening >= 0, "0 or more"),
        (
            "model.trunk.straightening",
            not model.trunk.straightening or (model.trunk.directions > 0 and model.trunk.framing is not None),
            "0 where model.trunk.directions is 0 or model.trunk.framing is null",
        ),
        ("changes.turn", 0 <= config.changes.turn <= 90, "in 0 … 90"),
        ("changes.cut", 0 <= config.changes.cut <= 0.9, "in 0 … 0.9"),
        ("changes.ground", 0 <= config.changes.ground <= 1, "in 0 … 1"),
        ("changes.dim", 0 <= config.changes.dim <= 0.9, "in 0 … 0.9"),
        ("changes.squeeze", 0 <= config.changes.squeeze <= 100, "in 0 … 100"),
        ("model.categories", model.categories == 0 or model.categories >= 2, "0, or 2 or more"),
        ("model.hidden", model.hidden >= 0, "0 or more"),
        ("model.generator.growth", model.generator.growth in GROWTHS, f"one of {', '.join(GROWTHS)}"),
        ("model.generator.noise", model.generator.noise >= 1, "1 or more"),
        ("model.generator.channels", _positive(model.generator.channels), "a list of numbers ≥ 1"),
        ("model.generator.channels", list(model.generator.channels)[2:][-1:] == [3], "3 or more numbers, 3 the last"),
        ("model.generator.start", _positive(model.generator.start, 2), "two numbers, height and width"),
        ("model.generator.dropout", 0 <= model.generator.dropout <= 0.99, "in 0 … 0.99"),
        ("train.kimg", 0 < train.kimg < math.inf, "more than 0"),
        ("train.batch_size", train.batch_size >= 2, "2 or more, for batch norm"),
        ("train.fakes", train.fakes in (None, 0) or train.fakes >= 2, "null, 0, or 2 or more, for batch norm"),
        (
            "train.fakes",
            train.fakes != 0 or neighbours.weight > 0,
            "more where neighbours.weight is 0",
        ),
        ("train.real_gradient", 0 <= train.real_gradient <= 1, "in 0 … 1"),
        ("train.code_gradient", 0 <= train.code_gradient <= 1, "in 0 … 1"),
        *_view_rules("train.views", train.views),
        ("neighbours.weight", 0 <= neighbours.weight < math.inf, "0 or more"),
        (
            "neighbours.weight",
            neighbours.weight == 0 or model.trunk.directions > 0,
            "0 where model.trunk.directions is 0",
        ),
        ("neighbours.count", neighbours.count >= 0, "0 or more"),
        *_view_rules("neighbours.views", neighbours.views),
        ("contrast.kimg", 0 <= contrast.kimg < math.inf, "0 or more"),
        (
            "contrast.kimg",
            (contrast.kimg > 0) == sees or (sees and config.transfer is not None),
            "more than 0 where a trunk of edges has model.trunk.channels, unless transfer brings learned ones, and 0"
            " elsewhere",
        ),
        ("contrast.lr", 0 < contrast.lr < math.inf, "more than 0"),
        ("contrast.temperature", 0.01 <= contrast.temperature < math.inf, "0.01 or more"),
        *_view_rules("contrast.views", contrast.views),
        ("train.lr_discriminator", 0 < train.lr_discriminator < math.inf, "more than 0"),
        ("train.lr_generator", 0 < train.lr_generator < math.inf, "more than 0"),
        ("train.betas", len(train.betas) == 2 and all(0 <= beta < 1 for beta in train.betas), "two numbers in 0 … 1"),
        ("train.mi_weight", 0 <= train.mi_weight < math.inf, "0 or more"),
        ("train.code_deviation", 0.01 <= train.code_deviation < math.inf, "0.01 or more"),
        ("train.checkpoint_kimg", 1 <= train.checkpoint_kimg < math.inf, "1 or more: names count thousands"),
        ("train.status_kimg", 0.001 <= train.status_kimg < math.inf, "0.001 or more: one photo"),
        ("train.grid_kimg", 0.001 <= train.grid_kimg < math.inf, "0.001 or more: one photo"),
        ("probe.photos", config.probe.photos >= 16, "16 or more"),
        ("probe.labels", (config.probe.labels is None) == (config.probe.root is None), "set together with probe.root"),
        ("train.ema_kimg", 0 <= train.ema_kimg < math.inf, "0 or more"),
        ("train.selection", train.selection in RULES, f"one of {', '.join(RULES)}"),
        (
            "train.selection",
            train.selection != "probe" or config.probe.root is not None,
            "another rule: `probe` needs probe.root and probe.labels",
        ),
        ("train.devices", train.devices == "auto" or _is_count(train.devices), "auto, or a number of devices"),
        ("train.nodes", train.nodes >= 1, "1 or more"),
        ("train.precision", train.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    ]
    for key, holds, wanted in rules:
        if not holds:
            raise UserError(f"{key} is {OmegaConf.select(config, key)}; it must be {wanted}")


def _edge_rules(trunk: DictConfig) -> list[tuple[str, bool, str]]:
    """What a trunk of edge directions needs beside."""
    if not trunk.directions:
        return []
    reduction, cell = max(1, math.prod(trunk.strides)), max(1, trunk.cell)  # others have rules of their own
    seen = list(trunk.channels)[-1:] or [0]
    return [
        ("model.trunk.hidden", trunk.hidden >= 1, "1 or more where model.trunk.directions is not 0"),
        ("model.trunk.cell", trunk.cell >= 2, "2 or more"),
        ("model.trunk.input_size", all(s % cell == 0 for s in trunk.input_size), "multiples of model.trunk.cell"),
        ("model.trunk.cell", trunk.cell % 2 == 0 or not trunk.straightening, "even, or model.trunk.straightening 0"),
        ("model.trunk.channels", len(trunk.channels) != 1, "[] or two stages or more"),
        ("model.trunk.strides", list(trunk.strides)[-1:] in ([], [1]), "1 for the last stage, a 1×1 convolution"),
        (
            "model.trunk.input_size",
            all(s % reduction == 0 for s in trunk.input_size),
            "multiples of the product of model.trunk.strides",
        ),
        (
            "model.trunk.channels",
            seen[0] * cell**2 < trunk.directions * reduction**2,
            "fewer for the last stage: what is seen takes the place of edges, of which there are not so many",
        ),
    ]


def _stage_rules(model: DictConfig, part: str, needed: bool, most: int) -> list[tuple[str, bool, str]]:
    """What the convolutions of the trunk or of the discriminator's own eyes must be like."""
    key, channels, strides = f"model.{part}", model[part].channels, model[part].strides
    return [
        (f"{key}.channels", all(value >= 1 for value in channels) and (len(channels) > 0 or not needed), "numbers ≥ 1"),
        (f"{key}.strides", len(strides) == len(channels), f"as long as {key}.channels"),
        (f"{key}.strides", all(1 <= stride <= most for stride in strides), f"1 to {most} for each stage"),
    ]


def _view_rules(key: str, views: DictConfig | None) -> list[tuple[str, bool, str]]:
    """What random views may be like, where there are any."""
    if views is None:
        return []
    area = list(views.area)
    return [
        (f"{key}.area", len(area) == 2 and 0 < area[0] <= area[1] <= 4, "two numbers in 0 … 4, not 0, in order"),
        (f"{key}.aspect", 1 <= views.aspect <= 4, "in 1 … 4"),
        (f"{key}.shift", 0 <= views.shift <= 1, "in 0 … 1"),
        (f"{key}.turn", 0 <= views.turn <= 180, "in 0 … 180"),
        (f"{key}.ground", 0 <= views.ground <= 1, "in 0 … 1"),
        (f"{key}.gain", 0 <= views.gain <= 2, "in 0 … 2"),
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(values: Any, count: int | None = None) -> bool:
    return len(values) > 0 and all(value >= 1 for value in values) and count in (None, len(values))
