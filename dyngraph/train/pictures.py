"""Pictures of what a network has learned so far."""

from __future__ import annotations

from collections.abc import Iterator

import lightning
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from torch import Tensor

from dyngraph.data import SegmentationDataset, denormalize
from dyngraph.nn import DGMNConv, RepGraphConv
from dyngraph.nn.evaluation_mode import evaluation_mode
from dyngraph.viz import (
    draw_nodes,
    draw_rates,
    draw_segmentation,
    dynamic_nodes,
    representative_nodes,
)


class LogPictures(lightning.Callback):
    r"""After each validation, logs the first validation image for TensorBoard.

    With its labels, the prediction, and the nodes that three of its pixels listen to, or one pixel
    at all rates of DGMN.

    Args:
        dataset: The validation images, normalised.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    @rank_zero_only
    def on_validation_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in self._figures(task):
                    logger.experiment.add_figure(name, figure, trainer.global_step, close=False)

    def _figures(self, task: lightning.LightningModule) -> Iterator[tuple[str, Figure]]:
        image, label = self.dataset[0]
        picture, images = denormalize(image), image.unsqueeze(0).to(task.device)
        with evaluation_mode(task):
            prediction: Tensor = task(images)[0].argmax(dim=0)
        panels = {"labels": label, "prediction": prediction}
        yield "segmentation", draw_segmentation(picture, panels, self.dataset.palette)
        height, width = image.shape[-2:]
        layers = [type(module) for module in task.modules()]
        if RepGraphConv in layers:
            pixels = [(height * 3 // 4, width * part // 4) for part in (1, 2, 3)]
            near, attention = representative_nodes(task, images)
            yield "nodes", draw_nodes(picture, near, attention, pixels)
        if DGMNConv in layers:
            rates = next(m.rates for m in task.modules() if isinstance(m, DGMNConv))
            pixel = (height * 3 // 4, width // 2)
            yield "rates", draw_rates(picture, dynamic_nodes(task, images), rates, pixel)
