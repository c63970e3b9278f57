"""Trains a segmenter on Cityscapes, by default with RepGraph's batches, crops and schedule.

With ``--data PATH`` the images come from Cityscapes as it is on disk, by default with ResNet-50,
crops of 769x769, batches of 8 and 40,000 iterations. Without it, small street scenes are generated
in the same format and a small network is trained on them within minutes on a CPU.

    python examples/train_cityscapes.py --data datasets/cityscapes --context bottleneck_repgraph
    python examples/train_cityscapes.py --context repgraph
    python examples/train_cityscapes.py --context repgraph --resume
"""

import argparse

import lightning
import torch

from dyngraph.data import OBJECT_CLASSES, generate_scenes
from dyngraph.models import segmenter
from dyngraph.models.segmenter import CONTEXTS
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit

PAPER = {
    "backbone": "resnet50",
    "head_channels": 512,
    "crop": (769, 769),
    "scale": (0.5, 2.0),
    "lr": 0.01,
    "steps": 40_000,
}
SMALL = {
    "backbone": "small_trunk",
    "head_channels": 64,
    "crop": (64, 128),
    "scale": (1.0, 1.0),
    "lr": 0.1,
    "steps": 1_500,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with leftImg8bit and gtFine; generated scenes if not given")
    add("--out", default="runs/cityscapes", help="folder of logs and checkpoints (%(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    add("--context", choices=["none", *CONTEXTS], default="bottleneck_repgraph")
    add("--backbone", help="resnet18, resnet34, resnet50, resnet101 or small_trunk")
    add("--weights", help="ImageNet weights of the ResNet, e.g. DEFAULT")
    add("--head-channels", type=int, help="channels of the context block")
    add("--steps", type=int, help="iterations")
    add("--batch-size", type=int, default=8, help="images per iteration (%(default)s)")
    add("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="training crop in pixels")
    add("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="range of the random scale")
    add("--lr", type=float, help="learning rate at the start")
    add("--weight-decay", type=float, default=5e-4, help="(%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--workers", type=int, default=2, help="loading processes (%(default)s)")
    add("--checkpoint-every", type=int, default=500, help="iterations (%(default)s)")
    add("--validate-every", type=int, help="iterations; once, at the end, if not given")
    add("--accelerator", default="auto", help="cpu, gpu, … (%(default)s)")
    add("--devices", default="auto", help="number of devices (%(default)s)")
    add("--precision", default="32-true", help="e.g. bf16-mixed (%(default)s)")
    add("--sync-batchnorm", action="store_true", help="batch statistics over all devices")
    arguments = parser.parse_args()
    recipe = PAPER if arguments.data else SMALL
    for name, value in recipe.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main() -> None:
    args = parse_arguments()
    data = args.data
    if data is None:
        data = "runs/scenes"
        generate_scenes(data, seed=args.seed)
    lightning.seed_everything(args.seed, verbose=False)
    model = segmenter(
        args.backbone,
        context=None if args.context == "none" else args.context,
        aux_loss=args.backbone != "small_trunk",
        head_channels=args.head_channels,
        weights_backbone=args.weights,
    ).to(memory_format=torch.channels_last)
    task = SegmentationTask(
        model,
        lr=args.lr,
        weight_decay=args.weight_decay,
        object_classes=None if args.data else list(OBJECT_CLASSES),
        seed=args.seed,
    )
    module = SegmentationDataModule(
        data,
        crop_size=tuple(args.crop),
        batch_size=args.batch_size,
        scale=tuple(args.scale),
        num_workers=args.workers,
        seed=args.seed,
    )
    scores = fit(
        task,
        module,
        args.out,
        args.steps,
        resume=args.resume,
        checkpoint_every=args.checkpoint_every,
        validate_every=args.validate_every,
        accelerator=args.accelerator,
        devices=args.devices,
        precision=args.precision,
        sync_batchnorm=args.sync_batchnorm,
    )
    for name, value in scores.items():
        print(f"{name:16} {value:.4f}")


if __name__ == "__main__":
    main()
