"""Trains DGMN2 to classify images, and says how many it gets right.

``--data`` is a folder with ``train/CLASS/*.png`` and ``val/CLASS/*.png`` (or JPEGs). Without it,
the classes are four generated patterns of stripes.

    python examples/classify.py
    python examples/classify.py --data PATH --checkpoint dgmn2_small_model.pth --model dgmn2_small

``--checkpoint`` starts from a released ImageNet classifier, whose head is replaced.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dyngraph import models
from dyngraph.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from dyngraph.models import load_official
from dyngraph.models.dgmn2 import DEPTHS
from dyngraph.train import parameter_groups


class Stripes(Dataset):
    """Noisy stripes of four directions; an image is a function of seed and number."""

    classes = ("0", "45", "90", "135")

    def __init__(self, length: int, size: int, seed: int) -> None:
        self.length = length
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(self.seed + number)
        label = number % len(self.classes)
        angle = math.radians(float(self.classes[label]))
        phase, period = torch.rand(2, generator=generator)
        y, x = torch.meshgrid(*[torch.arange(float(self.size))] * 2, indexing="ij")
        wave = (math.sin(angle) * y + math.cos(angle) * x) / (6 + 6 * period) + phase
        noise = torch.randn(3, self.size, self.size, generator=generator)
        return torch.sin(2 * math.pi * wave) + 0.5 * noise, label


def datasets(folder: Path | None, size: int) -> tuple[Dataset, Dataset, int]:
    """Training and validation images, and the number of classes."""
    if folder is None:
        return Stripes(512, size, seed=0), Stripes(128, size, seed=10**6), len(Stripes.classes)
    tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    crop = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *tensor])
    centre = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *tensor])
    train, val = ImageFolder(folder / "train", crop), ImageFolder(folder / "val", centre)
    if train.classes != val.classes:
        raise ValueError(f"{folder}: expected the same classes in train and val")
    return train, val, len(train.classes)


def make_model(name: str, num_classes: int, checkpoint: Path | None, drop_path: float) -> nn.Module:
    make = getattr(models, name)
    model = make(num_classes, drop_path=drop_path)
    if checkpoint is not None:
        released = make()
        print(load_official(released, checkpoint))
        # All but the classifier of the 1000 classes.
        released.head = model.head
        model.load_state_dict(released.state_dict())
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: DataLoader, device: str) -> float:
    model.eval()
    right = total = 0
    for image, label in images:
        right += (model(image.to(device)).argmax(dim=1).cpu() == label).sum().item()
        total += len(label)
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder of images; generated ones if not given")
    add("--model", choices=list(DEPTHS), default="dgmn2_tiny", help="(%(default)s)")
    add("--checkpoint", type=Path, help="a released classifier of 1000 classes to start from")
    add("--size", type=int, help="length of the square images (224; generated: 64)")
    add("--epochs", type=int, default=3, help="(%(default)s)")
    add("--batch-size", type=int, default=32, help="(%(default)s)")
    add("--lr", type=float, default=5e-4, help="learning rate at the start (%(default)s)")
    add("--weight-decay", type=float, default=0.05, help="(%(default)s)")
    add("--drop-path", type=float, default=0.1, help="stochastic depth (%(default)s)")
    add("--workers", type=int, default=2, help="loading processes (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--out", type=Path, help="folder to save the model to, for from_pretrained")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    size = args.size or (224 if args.data else 64)
    train, val, num_classes = datasets(args.data, size)
    load = {"batch_size": args.batch_size, "num_workers": args.workers}
    batches = DataLoader(train, shuffle=True, **load)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(args.model, num_classes, args.checkpoint, args.drop_path)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.weight_decay), lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(batches))
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for image, label in batches:
            scores = model(image.to(device, memory_format=torch.channels_last))
            loss = F.cross_entropy(scores, label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(label)
        right = accuracy(model, DataLoader(val, **load), device)
        print(f"epoch {epoch + 1}: loss {total / len(train):.4f}, accuracy {right:.4f}")
    if args.out is not None:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
