"""The commands for detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype
from tqdm import tqdm

from dyngraph.cli.run import Run, print_scores
from dyngraph.cli.unreadable_images import UnreadableImages
from dyngraph.data import CocoDetection
from dyngraph.evaluate.coco import (
    detections_to_coco,
    judge_detections,
    read_detections,
    write_detections,
)
from dyngraph.evaluate.detect import detect_folder
from dyngraph.evaluate.detect_listed import detect_listed
from dyngraph.evaluate.records import file_digest
from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.models import mask_rcnn
from dyngraph.train import DetectionDataModule, DetectionTask, LogDetections

RESULTS = "detections.json"
"""The results in the format of COCO's evaluation server."""


class DetectionRun(Run[DetectionDataModule]):
    data_class = DetectionDataModule
    task_class = DetectionTask
    network = staticmethod(mask_rcnn)
    given_by_data = frozenset({"annotation_path", "category_ids"})
    class_entry = "ids"
    # For the curves of DGMN's Figure 5.
    defaults = MappingProxyType({"trainer.validate_every": 10_000})

    def classes(self, data: DetectionDataModule) -> dict[str, Any]:
        names, ids, palette = CocoDetection.classes(data.root)
        return {"names": list(names), "ids": list(ids), "palette": palette.tolist()}

    def task(
        self, args: Namespace, data: DetectionDataModule, classes: Mapping[str, Any]
    ) -> DetectionTask:
        network = mask_rcnn(**args.network, num_classes=len(classes["names"]))
        path = CocoDetection.annotation_file(data.root, "val")
        return DetectionTask(network, path, classes["ids"], **args.model, seed=args.seed)

    def pictures(self, data: DetectionDataModule) -> LogDetections:
        return LogDetections(data.val)

    def image(
        self, picture: Tensor, classes: Mapping[str, Any], device: torch.device
    ) -> list[Tensor]:
        return [to_dtype(picture, torch.float32, scale=True).to(device)]

    def add_predict_arguments(self, parser: ArgumentParser) -> None:
        help_ = "smallest score of an object that is drawn"
        parser.add_argument("--threshold", type=float, default=0.5, help=help_)
        help_ = (
            "COCO's list of the images, e.g. image_info_test-dev2017.json: writes their results "
            "for its evaluation server, and no pictures"
        )
        parser.add_argument("--image_info", type=str | None, help=help_)

    def test(self, args: Namespace, config: str) -> None:
        data = self.data(args)
        classes = self.known_classes(args, self.classes(data))
        task = self.placed_task(args, data, classes)
        detections = []
        with evaluation_mode(task), torch.inference_mode():
            for image, target in tqdm(data.val, desc="detect", unit="image", disable=None):
                (detected,) = task([image.to(task.device)])
                found = detections_to_coco(target["image_id"], detected, data.val.category_ids)
                detections += found
        path = Path(args.out, RESULTS)
        write_detections(path, detections)
        print_scores(judge_detections(read_detections(path), data.val.annotation_path))

    def predict(self, args: Namespace, config: str) -> None:
        data = DetectionDataModule(**args.data, seed=args.seed)
        classes = self.known_classes(args)
        task = self.placed_task(args, data, classes)
        names, ids = classes["names"], classes["ids"]
        digest = file_digest(self.checkpoint(args))
        unreadable = UnreadableImages()
        on_unreadable = None if args.strict else unreadable
        if args.image_info is not None:
            categories = dict(zip(ids, names, strict=True))
            detect_listed(
                task.model,
                args.image_info,
                args.images,
                args.out,
                categories=categories,
                model_digest=digest,
                max_pixels=data.max_pixels,
                on_unreadable=on_unreadable,
            )
            return
        palette = torch.tensor(classes["palette"], dtype=torch.uint8)
        files = detect_folder(
            task.model,
            args.images,
            args.out,
            class_names=names,
            category_ids=ids,
            palette=palette,
            threshold=args.threshold,
            model_digest=digest,
            max_pixels=data.max_pixels,
            on_unreadable=on_unreadable,
        )
        unreadable.end(len(files))
