"""A whole segmenter on a CPU, forward and training step, with each context.

python benchmarks/segmenter.py
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import arguments, bars, forward, peak_memory, table, times, write
from torch import Tensor, nn
from tqdm import tqdm

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import segmenter

CONTEXTS = {
    "FCN": None,
    "Non-local": "nonlocal",
    "RepGraph": "repgraph",
    "bottleneck RepGraph": "bottleneck_repgraph",
    "DGMN": "dgmn",
}


def training_step(model: nn.Module, image: Tensor, label: Tensor) -> Callable[[], None]:
    def run() -> None:
        loss = F.cross_entropy(model.train()(image)["out"], label)
        torch.autograd.grad(loss, list(model.parameters()))

    return run


def main() -> None:
    parser = arguments(__doc__, "segmenter", rounds=3)
    add = parser.add_argument
    add("--backbone", default="resnet18", help="(%(default)s)")
    add("--size", type=int, nargs=2, default=(512, 1024), help="of the image (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    shape = (1, 3, *args.size)
    image = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    label = torch.randint(19, (1, *args.size))
    models = {
        name: segmenter(args.backbone, context).to(memory_format=torch.channels_last)
        for name, context in CONTEXTS.items()
    }
    passes = {
        "forward": {name: forward(model, image) for name, model in models.items()},
        "training step": {
            name: training_step(model, image, label) for name, model in models.items()
        },
    }
    results: dict[str, dict] = {
        name: {"multiply-adds": count_multiply_adds(model, *shape).total}
        for name, model in models.items()
    }
    for label_, runs in tqdm(passes.items()):
        for name, milliseconds in times(runs, args.rounds).items():
            results[name][label_] = {"ms": milliseconds, "MB": peak_memory(runs[name])}

    rows = [
        [
            name,
            f"{result['multiply-adds'] / 1e9:.1f}",
            *(f"{result[key][unit]:.0f}" for key in passes for unit in ("ms", "MB")),
        ]
        for name, result in results.items()
    ]
    header = ["", "multiply-adds, G", "forward, ms", "MB", "training step, ms", "MB"]
    print(table(header, rows))
    written = {"backbone": args.backbone, "size": args.size, "models": results}
    write(args.out, written, bars({args.backbone: results}, list(passes)))


if __name__ == "__main__":
    main()
