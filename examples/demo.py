"""Trains segmenters with and without context on generated street scenes, and compares them.

The class of an object on the road depends on its shape and on what stands far above it, a fence or
a wall. A network whose receptive field is 47 pixels wide can only guess the latter.

    python examples/demo.py

Prints a table, and writes pictures and a page on which to look at what the models listen to, to
``runs/demo``; the page of the first one as soon as it is trained. Models already trained there are
not trained again, and an interrupted one is resumed.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import torch
from torch import nn

from dyngraph.data import (
    CLASS_NAMES,
    OBJECT_CLASSES,
    PALETTE,
    CityscapesSegmentation,
    denormalize,
    eval_transform,
    generate_scenes,
)
from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import segmenter
from dyngraph.nn import (
    BottleneckRepGraphBlock,
    DGMNBlock,
    DGMNConv,
    RepGraphBlock,
)
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit
from dyngraph.viz import (
    capture_input,
    draw_affinities,
    draw_nodes,
    draw_rates,
    draw_segmentation,
    dynamic_nodes,
    explore,
    nonlocal_affinities,
    representative_nodes,
)

CONTEXTS: dict[str, str | Callable[[int], nn.Module] | None] = {
    "FCN": None,
    "Non-local": "nonlocal",
    # As many samples as DGMN has.
    "RepGraph": partial(RepGraphBlock, num_samples=18),
    "bottleneck RepGraph": partial(BottleneckRepGraphBlock, num_samples=18),
    # Rates that reach a node of the 16x32 map in every direction.
    "DGMN": partial(DGMNBlock, rates=(1, 12)),
}
# Trained first, so that there is something to look at while the others are.
FIRST = "RepGraph"
# On the page at the end.
SHOWN = ("Non-local", "RepGraph", "DGMN")
SIZE = (64, 128)
# Pixels on the road, where the objects stand.
PIXELS = ((54, 20), (54, 64), (54, 108))


def train(
    name: str, scenes: Path, folder: Path, steps: int, seed: int
) -> tuple[nn.Module, dict[str, float]]:
    """Trains one model, or takes it from ``folder``; returns it and its row of the table."""
    lightning.seed_everything(seed, verbose=False)
    model = segmenter("small_trunk", CONTEXTS[name], head_channels=64)
    model = model.to(memory_format=torch.channels_last)
    row_path = folder / "row.json"
    task = SegmentationTask(model, lr=0.1, object_classes=list(OBJECT_CLASSES), seed=seed)
    if row_path.exists():
        state = torch.load(folder / "last.ckpt", weights_only=True)
        task.load_state_dict(state["state_dict"])
        return model.eval(), json.loads(row_path.read_text())
    print(f"\n{name}")
    data = SegmentationDataModule(
        scenes,
        crop_size=SIZE,
        batch_size=8,
        scale=(1, 1),
        num_workers=1,
        seed=seed,
        val_batch_size=20,
    )
    start = time.perf_counter()
    scores = fit(
        task,
        data,
        folder,
        steps,
        resume=True,
        checkpoint_every=min(250, steps),
        accelerator="cpu",
        enable_model_summary=False,
    )
    row = {
        "mIoU": scores["miou"],
        "object IoU": scores["object_iou"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply-adds": count_multiply_adds(model, 1, 3, *SIZE).total,
        "seconds": time.perf_counter() - start,
    }
    row_path.write_text(json.dumps(row, indent=2))
    return model.eval(), row


def print_table(rows: dict[str, dict[str, float]]) -> None:
    header = ("model", "mIoU", "object IoU", "parameters", "multiply-adds", "seconds")
    print("\n| {:19} | {:>6} | {:>10} | {:>10} | {:>13} | {:>7} |".format(*header))
    print(f"|{'-' * 21}|{'-' * 7}:|{'-' * 11}:|{'-' * 11}:|{'-' * 14}:|{'-' * 8}:|")
    for name, row in rows.items():
        print(
            f"| {name:19} | {row['mIoU']:6.4f} | {row['object IoU']:10.4f} "
            f"| {row['parameters']:10,} | {row['multiply-adds'] / 1e6:11.1f} M "
            f"| {row['seconds']:7.0f} |"
        )


@torch.no_grad()
def draw(models: dict[str, nn.Module], scenes: Path, folder: Path) -> list[Path]:
    image, label = CityscapesSegmentation(scenes, "val", transform=eval_transform())[0]
    batch = image.unsqueeze(0)
    picture = denormalize(image)
    panels = {"labels": label}
    panels |= {name: model(batch)["out"][0].argmax(dim=0) for name, model in models.items()}
    figures = {"predictions": draw_segmentation(picture, panels)}
    for name in ("RepGraph", "bottleneck RepGraph"):
        near, attention = representative_nodes(models[name], batch)
        figures[f"nodes of {name}"] = draw_nodes(picture, near, attention, PIXELS)
    dgmn, _, _ = capture_input(models["DGMN"], DGMNConv, batch)
    samples = dynamic_nodes(models["DGMN"], batch)
    figures["nodes of DGMN"] = draw_rates(picture, samples, dgmn.rates, PIXELS[1])
    # The node of the 16x32 map below the pixel in the middle.
    row, column = (position // 4 for position in PIXELS[1])
    figures["affinities of Non-local"] = draw_affinities(
        nonlocal_affinities(models["Non-local"], batch), row * 32 + column
    )
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name.replace(' ', '_')}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def view(models: dict[str, nn.Module], scenes: Path, folder: Path) -> Path:
    """Writes a page of what models listen to on a validation image."""
    data = CityscapesSegmentation(scenes, "val", transform=eval_transform())
    image, label = data[0]
    viewer = explore(
        models,
        image.unsqueeze(0),
        label=label,
        class_names=CLASS_NAMES,
        palette=PALETTE,
        title=data.image_paths[0].name,
    )
    return viewer.save(folder / "viewer.html")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000, help="iterations (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")

    scenes = args.out / "scenes"
    generate_scenes(scenes, size=SIZE, seed=args.seed)
    models, rows = {}, {}
    for name in (FIRST, *(name for name in CONTEXTS if name != FIRST)):
        folder = args.out / name.replace(" ", "_")
        models[name], rows[name] = train(name, scenes, folder, args.steps, args.seed)
        if name == FIRST:
            page = view(models, scenes, args.out)
            print(
                f"\nWhat {name} listens to, to open in a browser meanwhile:\n  {page}", flush=True
            )
    print_table({name: rows[name] for name in CONTEXTS})
    print("\nPictures:", *draw(models, scenes, args.out), sep="\n  ")
    page = view({name: models[name] for name in SHOWN}, scenes, args.out)
    print(f"\nWhat {', '.join(SHOWN)} listen to, to open in a browser:\n  {page}")


if __name__ == "__main__":
    main()
