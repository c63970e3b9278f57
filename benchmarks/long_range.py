"""Which context finds a far cue? Segmenters on two generated tasks and a control, three seeds each.

In the first task, the classes of objects depend on their shape and on a strip of fence or wall,
more than 60 pixels above them all. In the second, every object has its own panel of that strip,
right above it and in its colour. In the control the strip says nothing. Without the cue, the best
possible object IoU is about a third. *Placed*: `SampleSearch` places the samples of RepGraph at a
quarter of the training. How many seeds found the cue, with an object IoU of 0.9, stands behind.

    python benchmarks/long_range.py

Writes every finished run to ``runs/long_range`` and continues from there when started again.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from tqdm import tqdm

from dyngraph.data import OBJECT_CLASSES, CityscapesSegmentation, eval_transform, generate_scenes
from dyngraph.evaluate import count_multiply_adds, mean_iou
from dyngraph.models import segmenter
from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, RepGraphBlock, SampleSearch
from dyngraph.train import parameter_groups

TASKS = {
    "one cue": {},
    "a cue each": {"panels": True},
    "control": {"cue": False},
}
SIZE = (96, 96)
BATCH = 8
CHANNELS = 64
NUM_CLASSES = 19
# The strip is 17 to 23 nodes above the objects in 24x24 nodes; samples start all over the map. Both
# numbers were chosen by scores in the first task; no other row was tuned like this. The scores were
# for other scenes (generate_scenes' seed 0) and networks of the seeds 0 to 2.
SCENES_SEED = 1
NETWORK_SEEDS = (3, 4, 5)
OFFSETS = {"num_samples": 18, "spread": 24.0}
RATES = (1, 6, 18)
# DeepLabV3's 6, 12 and 18 on the 49x49 nodes of its Cityscapes crops, scaled to this map.
ATROUS_RATES = (3, 6, 9)
# An object IoU that says that the cue was found.
FOUND = 0.9
# When the search for places of samples begins and ends, as a share of all iterations.
SINCE, AT = 0.15, 0.25


def aspp(channels: int, image_pooling: bool) -> nn.Module:
    """Atrous spatial pyramid pooling of DeepLabV3 or, without the mean over the image, of V2."""
    block = ASPP(channels, ATROUS_RATES, channels)
    if not image_pooling:
        del block.convs[-1]
        block.project[0] = nn.Conv2d(len(block.convs) * channels, channels, 1, bias=False)
    return block


CONTENDERS: dict[str, str | Callable[[int], nn.Module] | None] = {
    "FCN": None,
    "ASPP": partial(aspp, image_pooling=False),
    "ASPP with image pooling": partial(aspp, image_pooling=True),
    "Non-local": "nonlocal",
    "RepGraph": partial(RepGraphBlock, **OFFSETS),
    "RepGraph, placed": partial(RepGraphBlock, **OFFSETS),
    "bottleneck RepGraph": partial(BottleneckRepGraphBlock, **OFFSETS),
    "bottleneck RepGraph, placed": partial(BottleneckRepGraphBlock, **OFFSETS),
    "DGMN (DA)": partial(DGMNBlock, rates=RATES, groups=0, filters=False, walk=False),
    "DGMN (DA + DW)": partial(DGMNBlock, rates=RATES, walk=False),
    "DGMN (DA + DW + DS)": partial(DGMNBlock, rates=RATES),
}

PLACED = ("RepGraph, placed", "bottleneck RepGraph, placed")


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """All images ``[N, 3, H, W]`` and labels ``[N, H, W]`` of a split."""
    pairs = list(CityscapesSegmentation(folder, split, transform=eval_transform()))
    images, labels = (torch.stack([pair[i].as_subclass(Tensor) for pair in pairs]) for i in (0, 1))
    return images.contiguous(memory_format=torch.channels_last), labels


def build(name: str) -> nn.Module:
    model = segmenter(
        "small_trunk", CONTENDERS[name], num_classes=NUM_CLASSES, head_channels=CHANNELS
    )
    return model.to(memory_format=torch.channels_last)


def train(model: nn.Module, folder: Path, steps: int, placed: bool) -> dict[str, Tensor]:
    """Trains as the demo does. Returns what the search for places found in each layer, if any."""
    images, labels = load(folder, "train")
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    epochs = -(-steps * BATCH // len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    search, found = None, {}
    for step, batch in enumerate(order[: steps * BATCH].split(BATCH)):
        if placed and step == int(SINCE * steps):
            search = SampleSearch(model)
        if search is not None and step == int(AT * steps):
            found = search.place()
        flipped = torch.rand(BATCH) < 0.5
        image, label = images[batch], labels[batch]
        image[flipped], label[flipped] = image[flipped].flip(-1), label[flipped].flip(-1)
        loss = F.cross_entropy(model(image)["out"], label, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return found


@torch.no_grad()
def judge(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    confusion = torch.zeros(NUM_CLASSES**2, dtype=torch.long)
    for image, label in zip(images.split(20), labels.split(20), strict=True):
        prediction, known = model(image)["out"].argmax(dim=1), label != 255
        pairs = NUM_CLASSES * label[known] + prediction[known]
        confusion += torch.bincount(pairs, minlength=NUM_CLASSES**2)
    confusion = confusion.view(NUM_CLASSES, NUM_CLASSES)
    return {"mIoU": mean_iou(confusion), "object IoU": mean_iou(confusion, list(OBJECT_CLASSES))}


def run(task: str, name: str, seed: int, out: Path, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    path = run_path(out, task, name, seed, steps)
    folder = out / "scenes" / task
    model = build(name)
    start = time.process_time()
    train(model, folder, steps, placed=name in PLACED)
    seconds = time.process_time() - start
    scores = judge(model.eval(), *load(folder, "val")) | {"seconds": seconds}
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(scores))
    os.replace(partial_path, path)


def run_path(out: Path, task: str, name: str, seed: int, steps: int) -> Path:
    return out / f"{task}, {name}, seed {seed}, {steps} iterations.json"


def print_table(
    out: Path, contenders: list[str], tasks: list[str], seeds: list[int], steps: int
) -> None:
    columns = [f"object IoU, seeds {', '.join(map(str, seeds))}", *tasks, "parameters"]
    print(f"\n| {' | '.join(columns)} | multiply-adds | seconds |")
    print(f"|---|{'---:|' * (len(tasks) + 3)}")
    for name in contenders:
        cells, seconds = [], []
        for task in tasks:
            paths = [run_path(out, task, name, seed, steps) for seed in seeds]
            runs = [json.loads(path.read_text()) for path in paths]
            scores = [run["object IoU"] for run in runs]
            seconds += [run["seconds"] for run in runs]
            found = sum(score >= FOUND for score in scores)
            mean = statistics.mean(scores)
            cells.append(
                f"{mean:.3f} ({min(scores):.3f} to {max(scores):.3f}), {found} of {len(scores)}"
            )
        model = build(name).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        multiply_adds = count_multiply_adds(model, 1, 3, *SIZE).total
        print(
            f"| {name} | {' | '.join(cells)} | {parameters:,} | {multiply_adds / 1e6:.1f} M "
            f"| {statistics.median(seconds):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/long_range"), help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000, help="iterations (%(default)s)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=NETWORK_SEEDS, help="of networks (%(default)s)"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], help="(all)"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS], help="(all)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="(%(default)s)")
    args = parser.parse_args()

    for task in args.tasks:
        generate_scenes(args.out / "scenes" / task, size=SIZE, seed=SCENES_SEED, **TASKS[task])
    runs = [
        (task, name, seed)
        for seed in args.seeds
        for task in args.tasks
        for name in args.contenders
        if not run_path(args.out, task, name, seed, args.steps).exists()
    ]
    # One thread per run: running more at once is faster than more threads, and sums stay the same.
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, *key, args.out, args.steps, threads=1) for key in runs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            future.result()
    print_table(args.out, args.contenders, args.tasks, args.seeds, args.steps)


if __name__ == "__main__":
    main()
