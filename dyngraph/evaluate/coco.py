"""Detections in COCO's results format, and their scores by its official code."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dyngraph.data.coco_json import check_box, is_id, read_instances, read_json
from dyngraph.data.coco_masks import check_segmentation, encode_masks, is_number, shorten
from dyngraph.data.files import write_file

Detection = dict[str, Any]


def detections_to_coco(
    image_id: int, prediction: Mapping[str, Tensor], category_ids: Sequence[int]
) -> list[Detection]:
    r"""What a torchvision detector finds in an image, in the format of the evaluation server.

    Args:
        image_id: The id of the image.
        prediction: ``"boxes"`` ``[n, 4]``, the left, upper, right and lower edges in pixels;
            ``"labels"`` ``[n]`` in ``1..C``; ``"scores"`` ``[n]``; ``"masks"`` ``[n, 1, H, W]``,
            the probability that a pixel belongs to the object.
        category_ids: The id of each label's category, that of label 1 first.

    Returns:
        For each object, in their order, a dictionary that JSON can hold: ``"image_id"``,
        ``"category_id"``, ``"bbox"`` as ``[x, y, width, height]``, ``"score"`` and the pixels of
        probability 0.5 or more as the run-length encoding ``"segmentation"``.

    Raises:
        ImportError: If ``pycocotools`` is missing.
        ValueError: If ``prediction`` is not of these shapes, a label has no category, or a box or
            score is not finite.
    """
    boxes, labels = prediction["boxes"].double().cpu(), prediction["labels"].cpu()
    scores, masks = prediction["scores"].double().cpu(), prediction["masks"]
    shapes = [list(boxes.shape), list(labels.shape), list(scores.shape), list(masks.shape[:2])]
    count = len(boxes)
    if shapes != [[count, 4], [count], [count], [count, 1]] or masks.dim() != 4:
        found = {name: list(value.shape) for name, value in prediction.items()}
        raise ValueError(
            "prediction: expected boxes [n, 4], labels [n], scores [n] and masks [n, 1, H, W], "
            f"got {found}"
        )
    if count and not 1 <= int(labels.min()) <= int(labels.max()) <= len(category_ids):
        raise ValueError(
            f"prediction: expected labels 1..{len(category_ids)}, got {labels.unique().tolist()}"
        )
    if not boxes.isfinite().all() or not scores.isfinite().all():
        raise ValueError("prediction: expected finite boxes and scores")
    boxes[:, 2:] -= boxes[:, :2]
    segmentations = encode_masks((masks[:, 0] >= 0.5).cpu().numpy())
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": box,
            "score": score,
            "segmentation": segmentation,
        }
        for box, label, score, segmentation in zip(
            boxes.tolist(), labels.tolist(), scores.tolist(), segmentations, strict=True
        )
    ]


def write_detections(path: str | Path, detections: Sequence[Detection]) -> None:
    r"""Writes detections as a results file of COCO, as a whole or not at all."""
    write_file(Path(path), json.dumps(list(detections), allow_nan=False).encode())


def read_detections(path: str | Path) -> list[Detection]:
    r"""The detections, boxes and masks, of an untrusted results file of COCO.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it isn't a list of detections as from :func:`detections_to_coco`. The error
            names the file and the entry.
    """
    path = Path(path)
    detections = read_json(path)
    if not isinstance(detections, list):
        raise ValueError(f"{path}: expected a list of detections, got {shorten(detections)}")
    for number, detection in enumerate(detections):
        try:
            _check_detection(detection)
        except ValueError as error:
            raise ValueError(f"{path}: detection {number}: {error}") from error
    return detections


def judge_detections(
    detections: Sequence[Detection],
    annotation_path: str | Path,
    *,
    image_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    r"""The average precision of boxes and masks, by ``pycocotools``.

    As COCO defines it: the mean over 101 recalls, the classes and the thresholds of IoU 0.5, 0.55,
    …, 0.95, of at most 100 detections of a class in an image. Detections with equal scores keep
    their order.

    Args:
        detections: As :func:`detections_to_coco` returns them.
        annotation_path: The annotation file.
        image_ids: The ids of the images to score. Defaults to all.

    Returns:
        ``"box_ap"``; ``"box_ap50"`` and ``"box_ap75"`` for the IoUs 0.5 and 0.75 alone; and
        ``"box_ap/<name>"`` for each class. The same for masks, as ``"mask_ap"`` etc. Scores without
        any object are NaN, where ``pycocotools`` has -1, and such classes are left out of the
        means.

    Raises:
        ImportError: If ``pycocotools`` is missing.
        FileNotFoundError: If the annotation file is missing.
        ValueError: If the annotation file or a detection is broken, a detection's image or category
            is not in the file, or ``image_ids`` is empty or has one that is not in the file.
    """
    try:
        coco, cocoeval = map(import_module, ("pycocotools.coco", "pycocotools.cocoeval"))
    except ImportError as error:
        raise ImportError(
            "judge_detections needs pycocotools: pip install 'dyngraph[eval]'"
        ) from error
    path = Path(annotation_path)
    content = _read_truth(path)
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    category_ids = {category["id"] for category in categories}
    if image_ids is None:
        image_ids = list(sizes)
    if not image_ids or not sizes.keys() >= set(image_ids):
        unknown = sorted(set(image_ids) - sizes.keys())
        raise ValueError(f"image_ids: expected ids of images in {path}, got {unknown}")
    for number, detection in enumerate(detections):
        try:
            _check_detection(detection)
            _check_reference(detection, sizes, category_ids, path)
        except ValueError as error:
            raise ValueError(f"detections[{number}]: {error}") from error

    results = [
        {**detection, "id": id, "area": math.prod(detection["bbox"][2:]), "iscrowd": 0}
        for id, detection in enumerate(detections, start=1)
    ]
    scores: dict[str, float] = {}
    # pycocotools prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _index(coco.COCO(), content)
        found = _index(coco.COCO(), {**content, "annotations": results})
        for kind, iou_type in [("box", "bbox"), ("mask", "segm")]:
            judge = cocoeval.COCOeval(truth, found, iou_type)
            judge.params.imgIds = sorted(image_ids)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            for name, score in zip(("ap", "ap50", "ap75"), judge.stats, strict=False):
                scores[f"{kind}_{name}"] = float(score) if score >= 0 else math.nan
            # IoU, recall, class, size, number of detections: all sizes and 100 detections.
            precision = judge.eval["precision"][:, :, :, 0, -1]
            for number, category in enumerate(categories):
                scores[f"{kind}_ap/{category['name']}"] = _mean(precision[:, :, number])
    return scores


def _read_truth(path: Path) -> dict[str, Any]:
    content = read_instances(path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        try:
            check_segmentation(annotation["segmentation"], *sizes[annotation["image_id"]])
        except ValueError as error:
            raise ValueError(f"{path}: annotations, id {annotation['id']}: {error}") from error
    return content


def _check_detection(detection: Any) -> None:
    fields = ("image_id", "category_id", "bbox", "score", "segmentation")
    if not isinstance(detection, dict) or not detection.keys() >= set(fields):
        raise ValueError(f"expected {', '.join(fields)}, got {shorten(detection)}")
    for field in ("image_id", "category_id"):
        if not is_id(detection[field]):
            raise ValueError(f"{field}: expected an id, got {shorten(detection[field])}")
    check_box(detection["bbox"])
    if not is_number(detection["score"]):
        raise ValueError(f"score: expected a number, got {shorten(detection['score'])}")
    segmentation = detection["segmentation"]
    if not isinstance(segmentation, dict) or not _is_size(segmentation.get("size")):
        raise ValueError(
            f"segmentation: expected a run-length encoding, got {shorten(segmentation)}"
        )
    if not isinstance(segmentation.get("counts"), str):
        raise ValueError(
            f"segmentation: expected compressed runs, got {shorten(segmentation.get('counts'))}"
        )
    check_segmentation(segmentation, *segmentation["size"])


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(map(is_id, size)) and min(size) > 0


def _check_reference(
    detection: Detection, sizes: Mapping[int, list[int]], category_ids: set[int], path: Path
) -> None:
    image_id, category_id = detection["image_id"], detection["category_id"]
    if image_id not in sizes:
        raise ValueError(f"image_id: expected an image of {path}, got {image_id}")
    if category_id not in category_ids:
        raise ValueError(f"category_id: expected a category of {path}, got {category_id}")
    if detection["segmentation"]["size"] != sizes[image_id]:
        raise ValueError(
            f"segmentation: expected the size {sizes[image_id]} of image {image_id}, "
            f"got {detection['segmentation']['size']}"
        )


def _index(coco: Any, content: dict[str, Any]) -> Any:
    coco.dataset = content
    coco.createIndex()
    return coco


def _mean(precision: np.ndarray) -> float:
    """The mean over IoUs and recalls; all are -1 if there is no object."""
    return float(precision.mean()) if precision.min() >= 0 else math.nan
