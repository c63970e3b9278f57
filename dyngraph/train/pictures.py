"""Pictures of what a network has learned so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from dyngraph.data import CocoDetection, SegmentationDataset, denormalize
from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.viz import (
    draw_detections,
    draw_detector_listening,
    draw_listening,
    draw_panels,
    draw_segmentation,
    explore,
)
from dyngraph.viz.explore import NoLayersError
from dyngraph.viz.page import Viewer

_NUM_PAGES = 3


class LogFigures(lightning.Callback, ABC):
    r"""After each validation, logs figures for TensorBoard; at the end, writes viewers.

    These are pages on which to look at what the network listens to, ``viewer/….html`` in the folder
    of the run.
    """

    @abstractmethod
    def figures(self, task: lightning.LightningModule) -> Iterator[tuple[str, Figure]]:
        r"""The figures by name."""

    @abstractmethod
    def viewers(self, task: lightning.LightningModule) -> Iterator[tuple[str, Viewer]]:
        r"""The viewers of some images by name."""

    @rank_zero_only
    def on_validation_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in self.figures(task):
                    logger.experiment.add_figure(name, figure, trainer.global_step, close=False)

    @rank_zero_only
    def on_fit_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        with suppress(NoLayersError):
            for name, viewer in self.viewers(task):
                viewer.save(Path(trainer.default_root_dir, "viewer", f"{name}.html"))


class LogPictures(LogFigures):
    r"""After each validation, logs the first validation image for TensorBoard.

    It comes with its labels, the prediction, and the nodes that three of its pixels listen to, or
    one pixel at all rates of DGMN. At the end, the first three images get viewers.

    Args:
        dataset: The validation images, normalised.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def figures(self, task: lightning.LightningModule) -> Iterator[tuple[str, Figure]]:
        image, label = self.dataset[0]
        picture, images = denormalize(image), image.unsqueeze(0).to(task.device)
        with evaluation_mode(task):
            prediction: Tensor = task(images)[0].argmax(dim=0)
        panels = {"labels": label, "prediction": prediction}
        yield "segmentation", draw_segmentation(picture, panels, palette=self.dataset.palette)
        height, width = image.shape[-2:]
        pixels = [(height * 3 // 4, width * part // 4) for part in (1, 2, 3)]
        yield from draw_listening(task, images, picture, pixels)

    def viewers(self, task: lightning.LightningModule) -> Iterator[tuple[str, Viewer]]:
        for index in range(min(_NUM_PAGES, len(self.dataset))):
            image, label = self.dataset[index]
            path = self.dataset.image_paths[index]
            viewer = explore(
                {"network": task},
                image.unsqueeze(0).to(task.device),
                label=label,
                class_names=self.dataset.class_names,
                palette=self.dataset.palette,
                title=path.name,
            )
            yield path.stem, viewer


class LogDetections(LogFigures):
    r"""After each validation, logs the first validation image with objects for TensorBoard.

    It comes with its objects, the detections, and the nodes that the middles of the first nine
    objects listen to. At the end, the first three images get viewers.

    Args:
        dataset: The validation images, in 0..1.
    """

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset
        samples = (dataset[index] for index in range(len(dataset)))
        self.sample = next((sample for sample in samples if len(sample[1]["labels"])), dataset[0])

    def figures(self, task: lightning.LightningModule) -> Iterator[tuple[str, Figure]]:
        image, target = self.sample
        names, palette = self.dataset.class_names, self.dataset.palette
        picture, images = to_dtype(image, torch.uint8, scale=True), [image.to(task.device)]
        with evaluation_mode(task):
            (detected,) = task(images)
        pictures = {
            "objects": draw_detections(picture, target, names, palette),
            "detections": draw_detections(picture, detected, names, palette),
        }
        yield "detections", draw_panels(pictures)
        yield from draw_detector_listening(task.model, images[0], target["boxes"])

    def viewers(self, task: lightning.LightningModule) -> Iterator[tuple[str, Viewer]]:
        for index in range(min(_NUM_PAGES, len(self.dataset))):
            image, target = self.dataset[index]
            number = int(target["image_id"])
            viewer = explore(
                {"network": task},
                [image.to(task.device)],
                label=target,
                class_names=self.dataset.class_names,
                palette=self.dataset.palette,
                title=f"image {number}",
            )
            yield f"{number:012d}", viewer
