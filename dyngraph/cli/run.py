"""What the commands do, whatever the network is for."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import lightning
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from dyngraph.data.files import read_rgb, write_file
from dyngraph.evaluate.image_folder import check_distinct
from dyngraph.train import Interrupted, fit, load_weights, read_checkpoint
from dyngraph.train.fit import CHECKPOINT
from dyngraph.train.image_data_module import ImageDataModule
from dyngraph.train.record import check_classes, read_record
from dyngraph.viz import explore

Data = TypeVar("Data", bound=ImageDataModule)

# The arguments of a trainer that matter when nothing is trained.
_VALIDATION = (
    "accelerator",
    "devices",
    "enable_progress_bar",
    "limit_val_batches",
    "num_nodes",
    "precision",
    "strategy",
)


class Run(ABC, Generic[Data]):
    r"""The commands for one kind of network. Arguments are those of the classes and functions."""

    data_class: type[Data]
    task_class: type[lightning.LightningModule]
    network: Callable[..., nn.Module]
    given_by_data: frozenset[str]
    """The arguments of the task that come from the data set."""
    class_entry: str
    """What classes have besides ``names`` and ``palette``."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """The arguments whose defaults differ from those of the functions."""

    @property
    def sources(self) -> dict[str, Callable[..., Any]]:
        r"""The function or class whose arguments each group has."""
        return {
            "data": self.data_class,
            "network": self.network,
            "model": self.task_class,
            "trainer": fit,
        }

    @abstractmethod
    def classes(self, data: Data) -> dict[str, Any]:
        r"""The ``names`` of the classes of the data, their ``palette`` and what else they need.

        Plain containers, which go into checkpoints: all that a prediction needs besides the
        settings of the network. Images may be missing.
        """

    @abstractmethod
    def task(
        self, args: Namespace, data: Data, classes: Mapping[str, Any]
    ) -> lightning.LightningModule:
        r"""The task with new weights; the data may be missing."""

    @abstractmethod
    def pictures(self, data: Data) -> lightning.Callback:
        r"""The callback that logs pictures during training."""

    @abstractmethod
    def add_predict_arguments(self, parser: ArgumentParser) -> None:
        r"""Arguments that only ``predict`` has."""

    @abstractmethod
    def test(self, args: Namespace, config: str) -> None:
        r"""Writes predictions for the validation images and scores the files."""

    @abstractmethod
    def predict(self, args: Namespace, config: str) -> None:
        r"""Writes predictions for a folder of images."""

    @abstractmethod
    def image(self, picture: Tensor, classes: Mapping[str, Any], device: torch.device) -> Any:
        r"""A picture ``[3, H, W]``, uint8, as the network takes it, on its device."""

    def fit(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        classes = self.classes(data)
        task = self.seeded_task(args, data, classes)
        record = {"settings": yaml.safe_load(config), "classes": classes}
        save = SaveConfig(Path(args.trainer.folder, "config.yaml"), config)
        callbacks = [*args.trainer.pop("callbacks"), save, self.pictures(data)]
        try:
            print_scores(fit(task, data, callbacks=callbacks, record=record, **args.trainer))
        except Interrupted as stop:
            _say(f"{stop}; the same command with --trainer.resume true continues from there")
            raise

    def validate(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        task = self.trained_task(args, data, self.known_classes(args, self.classes(data)))
        print_scores(_trainer(args).validate(task, data, verbose=False)[0])

    def view(self, args: Namespace, config: str) -> None:
        paths = [Path(image) for image in args.images]
        pages = {path: Path(args.out, f"{path.stem}.html") for path in paths}
        check_distinct({path: [page] for path, page in pages.items()})
        data = self.data_class(**args.data, seed=args.seed)
        classes = self.known_classes(args)
        networks = {self.checkpoint(args): self.placed_task(args, data, classes)}
        if args.compare is not None:
            other = self.known_classes(args.other)
            check_classes(self.checkpoint(args), classes, other)
            networks[Path(args.compare)] = self.placed_task(args.other, data, other)
        device = next(iter(networks.values())).device
        labels = _labels(data, paths)
        for path, page in pages.items():
            picture = read_rgb(path, data.max_pixels)
            viewer = explore(
                {_name(checkpoint, networks): task for checkpoint, task in networks.items()},
                self.image(picture, classes, device),
                picture=picture,
                label=labels.get(path),
                class_names=classes["names"],
                palette=torch.tensor(classes["palette"], dtype=torch.uint8),
                threshold=args.threshold,
                title=path.name,
            )
            print(viewer.save(page))

    def data(self, args: Namespace) -> Data:
        r"""The data, with the validation images loaded."""
        data = self.data_class(**args.data, seed=args.seed)
        data.prepare_data()
        data.setup("validate")
        return data

    def checkpoint(self, args: Namespace) -> Path:
        r"""The checkpoint that a command uses."""
        return Path(args.checkpoint or Path(args.trainer.folder, CHECKPOINT))

    def known_classes(
        self, args: Namespace, classes: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        r"""The classes that the checkpoint was trained for, which must be those of the data.

        Args:
            args: The arguments.
            classes: The classes of the data, if there is any.

        Raises:
            ValueError: If they differ, or are those of another kind of network.
        """
        path = self.checkpoint(args)
        record = read_record(read_checkpoint(path), path)
        if record is None:
            # A checkpoint of another program.
            return classes or self.classes(self.data_class(**args.data, seed=args.seed))
        if classes is not None:
            check_classes(path, record["classes"], classes)
        if self.class_entry not in record["classes"]:
            raise ValueError(f"{path}: record: classes: expected their {self.class_entry}")
        return record["classes"]

    def seeded_task(
        self, args: Namespace, data: Data, classes: Mapping[str, Any]
    ) -> lightning.LightningModule:
        r"""The task with weights that are a function of the seed."""
        lightning.seed_everything(args.seed, verbose=False)
        # The layout that dyngraph's layers take without a copy.
        return self.task(args, data, classes).to(memory_format=torch.channels_last)

    def trained_task(self, args: Namespace, data: Data, classes: Mapping[str, Any]) -> Any:
        r"""The task with the weights of the checkpoint."""
        task = self.seeded_task(args, data, classes)
        load_weights(task, self.checkpoint(args))
        return task

    def placed_task(self, args: Namespace, data: Data, classes: Mapping[str, Any]) -> Any:
        r"""The trained task, on the first of the trainer's devices."""
        return self.trained_task(args, data, classes).to(_trainer(args).strategy.root_device)


def _name(checkpoint: Path, others: Collection[Path]) -> str:
    """That of its folder, if no other has it."""
    names = [other.resolve().parent.name for other in others]
    name = checkpoint.resolve().parent.name
    return name if names.count(name) == 1 else str(checkpoint)


@rank_zero_only
def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _labels(data: ImageDataModule, images: Collection[Path]) -> dict[Path, Any]:
    """The true classes or objects of those images that are the data's."""
    labels: dict[Path, Any] = {}
    for split in ("val", "train", "test"):
        missing = [path for path in images if path not in labels]
        if not missing:
            break
        try:
            dataset = data.load(split, augmented=False)
        except (FileNotFoundError, ValueError):
            # This split is not here.
            continue
        places = {path.resolve(): index for index, path in enumerate(dataset.image_paths)}
        for path in missing:
            if path.resolve() in places:
                labels[path] = dataset.load(places[path.resolve()])[1]
    return labels


def _trainer(args: Namespace) -> lightning.Trainer:
    """A trainer for everything except training."""
    options = {name: args.trainer[name] for name in _VALIDATION}
    return lightning.Trainer(logger=False, use_distributed_sampler=False, **options)


class SaveConfig(lightning.Callback):
    r"""Writes all arguments of a run beside its checkpoints, for the commands that follow."""

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self.config = config

    @rank_zero_only
    def on_train_start(self, *args: object) -> None:
        write_file(self.path, self.config.encode())


@rank_zero_only
def print_scores(scores: Mapping[str, float]) -> None:
    r"""Prints the scores of a run, the only thing that commands print to standard output."""
    for name, value in scores.items():
        print(f"{name:32} {value:.4f}")
