"""The commands for segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from dyngraph.cli.run import Run, print_scores
from dyngraph.cli.unreadable_images import UnreadableImages
from dyngraph.data import DATASETS, eval_transform
from dyngraph.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from dyngraph.evaluate import Inference
from dyngraph.evaluate.cityscapes import judge_predictions, prediction_path
from dyngraph.evaluate.label_files import score_predictions
from dyngraph.evaluate.predict import predict_folder
from dyngraph.evaluate.records import file_digest
from dyngraph.models import segmenter
from dyngraph.train import LogPictures, SegmentationDataModule, SegmentationTask


class SegmentationRun(Run[SegmentationDataModule]):
    data_class = SegmentationDataModule
    task_class = SegmentationTask
    network = staticmethod(segmenter)
    given_by_data = frozenset({"num_classes", "class_names"})
    class_entry = "normalization"

    def classes(self, data: SegmentationDataModule) -> dict[str, Any]:
        names, palette = DATASETS[data.dataset].classes(data.root)
        normalization = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}
        return {"names": [*names], "palette": palette.tolist(), "normalization": normalization}

    def task(
        self, args: Namespace, data: SegmentationDataModule, classes: Mapping[str, Any]
    ) -> SegmentationTask:
        names = [*classes["names"]]
        network = segmenter(**args.network, num_classes=len(names))
        return SegmentationTask(
            network, len(names), class_names=names, **args.model, seed=args.seed
        )

    def pictures(self, data: SegmentationDataModule) -> LogPictures:
        return LogPictures(data.val)

    def image(self, picture: Tensor, classes: Mapping[str, Any], device: torch.device) -> Tensor:
        return eval_transform(**classes["normalization"])(picture).unsqueeze(0).to(device)

    def add_predict_arguments(self, parser: ArgumentParser) -> None:
        help_ = "also write label ids, for Cityscapes' evaluation server"
        parser.add_argument("--label_ids", type=bool, default=False, help=help_)

    def test(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        classes = self.known_classes(args, self.classes(data))
        task = self.placed_task(args, data, classes)
        images, _ = data.val.folders(data.root, "val")
        is_cityscapes = args.data.dataset == "cityscapes"
        labels = predict_folder(
            task,
            images,
            args.out,
            task.inference or Inference(),
            palette=data.val.palette,
            label_ids=is_cityscapes,
            paths=data.val.image_paths,
            max_pixels=data.max_pixels,
        )
        if is_cityscapes:
            folder = Path(args.out, "label_ids")
            files = [prediction_path(folder, image) for image in data.val.image_paths]
            print_scores(judge_predictions(files, data.val.label_paths))
        else:
            truth = (data.val[index][1] for index in range(len(data.val)))
            names = data.val.class_names
            print_scores(score_predictions(labels, truth, names, max_pixels=data.max_pixels))

    def predict(self, args: Namespace, config: str) -> None:
        data = SegmentationDataModule(**args.data, seed=args.seed)
        if args.label_ids and data.dataset != "cityscapes":
            raise ValueError(f"label_ids: expected classes of cityscapes, got {data.dataset}")
        classes = self.known_classes(args)
        task = self.placed_task(args, data, classes)
        unreadable = UnreadableImages()
        files = predict_folder(
            task,
            args.images,
            args.out,
            task.inference or Inference(),
            palette=torch.tensor(classes["palette"], dtype=torch.uint8),
            label_ids=args.label_ids,
            normalize=eval_transform(**classes["normalization"]),
            model_digest=file_digest(self.checkpoint(args)),
            max_pixels=data.max_pixels,
            on_unreadable=None if args.strict else unreadable,
        )
        unreadable.end(len(files))
