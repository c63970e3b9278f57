"""What the commands do, whatever the network is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import lightning
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

from dyngraph.train import fit, load_weights
from dyngraph.train.fit import CHECKPOINT
from dyngraph.train.image_data_module import ImageDataModule

Data = TypeVar("Data", bound=ImageDataModule)

# The arguments of a trainer that matter where nothing is trained.
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
    """The arguments of the task that the data set gives."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """The arguments that have another default than the functions."""

    @abstractmethod
    def task(self, args: Namespace, data: Data) -> lightning.LightningModule:
        r"""The task with new weights, for the classes of the data; no image has to be there."""

    @abstractmethod
    def pictures(self, data: Data) -> lightning.Callback:
        r"""What logs pictures during training."""

    @abstractmethod
    def add_predict_arguments(self, parser: ArgumentParser) -> None:
        r"""Arguments that only ``predict`` has."""

    @abstractmethod
    def test(self, args: Namespace, config: str) -> None:
        r"""Writes predictions for the validation images and scores the files."""

    @abstractmethod
    def predict(self, args: Namespace, config: str) -> None:
        r"""Writes predictions for a folder of images."""

    def fit(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        task = self.seeded_task(args, data)
        save = SaveConfig(Path(args.trainer.folder, "config.yaml"), config)
        callbacks = [*args.trainer.pop("callbacks"), save, self.pictures(data)]
        print_scores(fit(task, data, callbacks=callbacks, **args.trainer))

    def validate(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        task = self.trained_task(args, data)
        print_scores(_trainer(args).validate(task, data, verbose=False)[0])

    def data(self, args: Namespace) -> Data:
        r"""The data, with the validation images at hand."""
        data = self.data_class(**args.data, seed=args.seed)
        data.prepare_data()
        data.setup("validate")
        return data

    def seeded_task(self, args: Namespace, data: Data) -> lightning.LightningModule:
        r"""The task with weights that are a function of the seed."""
        lightning.seed_everything(args.seed, verbose=False)
        # The layout in which dyngraph's layers take feature maps without a copy.
        return self.task(args, data).to(memory_format=torch.channels_last)

    def trained_task(self, args: Namespace, data: Data) -> Any:
        r"""The task with the weights of the checkpoint."""
        task = self.seeded_task(args, data)
        load_weights(task, args.checkpoint or Path(args.trainer.folder, CHECKPOINT))
        return task

    def placed_task(self, args: Namespace, data: Data) -> Any:
        r"""The trained task, on the first of the trainer's devices."""
        return self.trained_task(args, data).to(_trainer(args).strategy.root_device)


def _trainer(args: Namespace) -> lightning.Trainer:
    """For what is not training."""
    options = {name: args.trainer[name] for name in _VALIDATION}
    return lightning.Trainer(logger=False, use_distributed_sampler=False, **options)


class SaveConfig(lightning.Callback):
    r"""Writes all arguments of a run beside its checkpoints, for the commands that follow."""

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self.config = config

    @rank_zero_only
    def on_train_start(self, *args: object) -> None:
        self.path.write_text(self.config)


@rank_zero_only
def print_scores(scores: Mapping[str, float]) -> None:
    r"""Prints the scores of a run, the one thing that the commands print."""
    for name, value in scores.items():
        print(f"{name:32} {value:.4f}")
