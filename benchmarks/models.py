"""Whole models of transformers before and after `accelerate`, on a CPU.

    python benchmarks/models.py

Deformable DETR and Mask2Former with ResNet-50 and Swin-Tiny, random weights: a forward pass in
evaluation mode, and a training step's forward and backward pass. Prints the shortest times of some
rounds, in turns in this process, their ratios, and the most memory held beyond the model.
"""

import time
from collections.abc import Callable

import torch
from measure import MILLI, arguments, bars, peak_memory, table, write
from torch import nn
from tqdm import tqdm
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerModel,
)

from dyngraph.integrations.transformers import accelerate, restore


def deformable_detr() -> nn.Module:
    return DeformableDetrForObjectDetection(DeformableDetrConfig(use_pretrained_backbone=False))


def mask2former() -> nn.Module:
    return Mask2FormerModel(Mask2FormerConfig())


MODELS = {"Deformable DETR": deformable_detr, "Mask2Former": mask2former}
WAYS = {"before": restore, "after": accelerate}


def passes(model: nn.Module, image: torch.Tensor) -> dict[str, Callable[[], None]]:
    def infer() -> None:
        with torch.no_grad():
            model.eval()(pixel_values=image)

    def train() -> None:
        out = model.train()(pixel_values=image)
        first, second, *_ = (x for x in out.values() if torch.is_tensor(x) and x.requires_grad)
        (first.square().mean() + second.square().mean()).backward()
        model.zero_grad()

    return {"inference": infer, "training step": train}


def milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return MILLI * (time.perf_counter() - start)


def measure(model: nn.Module, image: torch.Tensor, rounds: int) -> dict[str, dict]:
    results: dict[str, dict] = {way: {} for way in WAYS}
    for name, run in passes(model, image).items():
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, change in WAYS.items():
                change(model)
                taken[way].append(milliseconds(run))
        for way, change in WAYS.items():
            change(model)
            results[way][name] = {"ms": min(taken[way]), "MB": peak_memory(run)}
    return results


def report(results: dict) -> str:
    rows = []
    for model, ways in results.items():
        for name, before in ways["before"].items():
            after = ways["after"][name]
            rows.append(
                [
                    f"{model}, {name}",
                    *(f"{taken['ms'] / MILLI:.2f}" for taken in (before, after)),
                    f"{before['ms'] / after['ms']:.1f}",
                    *(f"{taken['MB']:.0f}" for taken in (before, after)),
                ]
            )
    return table(["", "before, s", "after, s", "ratio", "before, MB", "after, MB"], rows)


def main() -> None:
    parser = arguments(__doc__, "models", rounds=3)
    parser.add_argument("--model", default="", help="only models whose names contain this")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("H", "W"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = {}
    for name in tqdm([name for name in MODELS if args.model in name], unit="model"):
        image = torch.randn(1, 3, *args.size)
        results[name] = measure(MODELS[name](), image, args.rounds)
        write(args.out, {"models": results}, bars(results, ["inference", "training step"]))
    print(report(results))


if __name__ == "__main__":
    main()
