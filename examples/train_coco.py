"""Trains Mask R-CNN on COCO, with and without context inside its backbone, and compares them.

With ``--data PATH`` the images come from COCO as it is on disk, by default with ResNet-50 and the
"1x" schedule: 90,000 iterations of 16 images. Without it, a small data set is generated in the same
format and small detectors are trained on it within minutes on a CPU. Half of its classes differ in
shape; the others look the same, and depend on a beacon so far away that a detector without context
cannot see it.

    python examples/train_coco.py
    python examples/train_coco.py --data datasets/coco --weights DEFAULT --contexts repgraph

Prints a table of COCO's average precision, by pycocotools. Detectors already trained in ``--out``
are not trained again, and an interrupted one is resumed.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from dyngraph.data import FAR_CLASSES, NEAR_CLASSES, generate_coco
from dyngraph.models import mask_rcnn
from dyngraph.nn import DGMNBlock, NonLocalBlock, RepGraphBlock
from dyngraph.train import DetectionDataModule, DetectionTask, LogDetections, fit
from dyngraph.train.optimizer import OPTIMIZERS

# A context and its place in the backbone, as in the papers.
Context = tuple[str | Callable[[int], nn.Module] | None, str]
CONTEXTS: dict[str, Context] = {
    "baseline": (None, "res4"),
    "nonlocal": ("nonlocal", "res4"),
    "repgraph": ("bottleneck_repgraph", "res4"),
    "dgmn": ("dgmn", "c4_c5"),
}


def small_dgmn(channels: int) -> DGMNBlock:
    """Without dynamic filters: their product with affinities takes longer to learn."""
    block = DGMNBlock(channels, rates=(20, 23, 26, 29, 32, 35), groups=0, filters=False)
    # Messages are means of samples, most of which are outside of the strip. To matter from the
    # first step on, they start stronger.
    with torch.no_grad():
        block.conv.lin.weight[:, channels:] *= 4
    return block


# For strips 8 nodes high, with beacons 20 to 36 nodes away. These blocks don't start as the
# identity, which suits pretrained networks: from scratch, it would delay finding the beacons.
SMALL_CONTEXTS: dict[str, Context] = {
    "baseline": (None, "res4"),
    "nonlocal": (NonLocalBlock, "res4"),
    "repgraph": (partial(RepGraphBlock, num_samples=27, spread=(2.0, 36.0)), "res4"),
    "dgmn": (small_dgmn, "res4"),
}
DEFAULT = ["baseline", "repgraph", "dgmn"]

PAPER = {
    "backbone": "resnet50",
    "batch_size": 16,
    "optimizer": "sgd",
    "lr": 0.02,
    "steps": 90_000,
    "decay": (6 / 9, 8 / 9),
}
# In small detectors: the channels of the pyramid and the mask head, and of the box head.
WIDTH = 64
BOX_WIDTH = 256
SMALL = {
    "backbone": "resnet10",
    "batch_size": 4,
    "optimizer": "adamw",
    "lr": 1e-3,
    "steps": 600,
    "decay": (0.9,),
}


def small_options() -> dict[str, Any]:
    """Narrow heads and few proposals, for small pictures of few objects."""
    return {
        # Pictures are not shrunk, which would bring the beacons into sight.
        "min_size": 64,
        "max_size": 336,
        "pyramid_channels": WIDTH,
        "box_head": TwoMLPHead(WIDTH * 7**2, BOX_WIDTH),
        "mask_head": MaskRCNNHeads(WIDTH, (WIDTH,), 1),
        "box_batch_size_per_image": 16,
        "box_positive_fraction": 0.5,
        "box_detections_per_img": 20,
        "rpn_pre_nms_top_n_train": 400,
        "rpn_post_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
    }


def build(name: str, args: argparse.Namespace, num_classes: int) -> MaskRCNN:
    lightning.seed_everything(args.seed, verbose=False)
    context, place = (CONTEXTS if args.data else SMALL_CONTEXTS)[name]
    model = mask_rcnn(
        args.backbone,
        context=context,
        num_classes=num_classes,
        context_at=place,
        weights_backbone=args.weights,
        **({} if args.data else small_options()),
    )
    if args.data:
        return model
    model.roi_heads.box_predictor = FastRCNNPredictor(BOX_WIDTH, num_classes + 1)
    model.roi_heads.mask_predictor = MaskRCNNPredictor(WIDTH, WIDTH, num_classes + 1)
    # The layout in which convolutions on a CPU are fastest, and dyngraph's layers need no copy.
    return model.to(memory_format=torch.channels_last)


def train(name: str, args: argparse.Namespace, data: DetectionDataModule) -> dict[str, float]:
    """The scores of one detector, trained first unless its folder already has it."""
    folder = args.out / name
    scores_path = folder / "scores.json"
    if scores_path.exists():
        return json.loads(scores_path.read_text())
    print(f"\n{name}")
    model = build(name, args, len(data.val.class_names))
    task = DetectionTask(
        model,
        data.val.annotation_path,
        data.val.category_ids,
        lr=args.lr,
        optimizer=args.optimizer,
        warmup_steps=min(500, args.steps // 10),
        decay_steps=tuple(int(share * args.steps) for share in args.decay),
        seed=args.seed,
    )
    start = time.perf_counter()
    scores = fit(
        task,
        data,
        folder,
        args.steps,
        resume=True,
        checkpoint_every=min(2500, max(1, args.steps // 4)),
        callbacks=[LogDetections(data.val)],
        accelerator=args.accelerator,
        devices=args.devices,
        precision=args.precision,
        # Without ImageNet weights, gradients are large at first.
        gradient_clip_val=None if args.weights else 10.0,
        enable_model_summary=False,
    )
    scores["seconds"] = time.perf_counter() - start
    scores_path.write_text(json.dumps(scores, indent=2))
    return scores


def print_table(rows: Mapping[str, Mapping[str, float]], is_generated: bool) -> None:
    columns = ["box_ap", "mask_ap"]
    groups = {"near": NEAR_CLASSES, "far": FAR_CLASSES} if is_generated else {}
    titles = [*columns, *(f"{column}, {group}" for column in columns for group in groups)]
    print("\n| detector | " + " | ".join([*titles, "seconds"]) + " |")
    print("|---|" + "---:|" * (len(titles) + 1))
    for name, scores in rows.items():
        values = [scores[column] for column in columns]
        for column in columns:
            for classes in groups.values():
                of_classes = [scores[f"{column}/{label}"] for label in classes]
                values.append(sum(of_classes) / len(of_classes))
        cells = [f"{value:.3f}" for value in values]
        print(f"| {name} | " + " | ".join([*cells, f"{scores['seconds']:.0f}"]) + " |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with annotations and train2017; generated strips if not given")
    add("--out", type=Path, default=Path("runs/coco"), help="folder to write (%(default)s)")
    add(
        "--contexts",
        nargs="+",
        choices=[*CONTEXTS],
        default=DEFAULT,
        help="(%(default)s)",
    )
    add("--backbone", help="resnet10, resnet18, resnet34, resnet50, resnet101 or resnext101_32x8d")
    add("--weights", help="ImageNet weights of the backbone, e.g. DEFAULT")
    add("--steps", type=int, help="iterations")
    add("--batch-size", type=int, help="images per iteration")
    add("--optimizer", choices=OPTIMIZERS, help="optimiser")
    add("--lr", type=float, help="learning rate")
    add("--decay", type=float, nargs="*", help="fractions of the run at which lr is divided by 10")
    add("--seed", type=int, default=1, help="(%(default)s)")
    add("--workers", type=int, default=1, help="loading processes (%(default)s)")
    add("--accelerator", default="auto", help="cpu, gpu, … (%(default)s)")
    add("--devices", default="auto", help="number of devices (%(default)s)")
    add("--precision", default="32-true", help="e.g. bf16-mixed (%(default)s)")
    arguments = parser.parse_args()
    for name, value in (PAPER if arguments.data else SMALL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main() -> None:
    args = parse_arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    root = args.data
    if root is None:
        root = args.out / "strips"
        # No more than a short run uses.
        num_train = min(2000, args.steps * args.batch_size)
        generate_coco(root, num_train=num_train, num_val=min(100, num_train), seed=args.seed)
    data = DetectionDataModule(
        root, batch_size=args.batch_size, num_workers=args.workers, seed=args.seed
    )
    data.setup("validate")
    rows = {name: train(name, args, data) for name in args.contexts}
    print_table(rows, is_generated=args.data is None)


if __name__ == "__main__":
    main()
