"""Detections for the images that a COCO file lists, for its evaluation server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from dyngraph.data.coco_images import CocoImages
from dyngraph.data.coco_json import read_image_info
from dyngraph.data.files import MAX_PIXELS, write_file
from dyngraph.evaluate.coco import detections_to_coco, read_detections, write_detections
from dyngraph.evaluate.image_folder import check_outside
from dyngraph.evaluate.records import Records
from dyngraph.evaluate.unreadable import OnUnreadable, read_or_skip
from dyngraph.evaluation_mode import evaluation_mode


@torch.inference_mode()
def detect_listed(
    model: nn.Module,
    image_info: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    categories: Mapping[int, str],
    progress: bool = True,
    model_digest: str | None = None,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: OnUnreadable | None = None,
) -> Path:
    r"""Detects objects in the images that a COCO file lists, and writes one results file.

    It holds a list of all detections: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height,
    in pixels), ``score`` and ``segmentation``, for COCO's evaluation server, for boxes and for
    masks. From ``image_info_test-dev2017.json`` comes
    ``detections_test-dev2017_dyngraph_results.json``.

    The detections of each image are written to ``results/<id>.json`` at once. With a
    ``model_digest``, ``records/<id>.json`` says which model and image they come from, and an image
    is skipped if its detections come from both, so that an interrupted run continues where it
    stopped.

    Args:
        model: From images ``[3, H, W]`` to detections, such as
            :func:`~dyngraph.models.mask_rcnn`. It runs in evaluation mode, on the device of its
            parameters.
        image_info: COCO's JSON file of images and categories; annotations are not needed.
        images: The folder of images.
        out: The folder to write, made if it's missing. It must not be inside ``images``.
        categories: The names of the categories that the model finds, by COCO's numbers, in the
            order of the labels.
        progress: Whether to show a progress bar.
        model_digest: Identifies the model, such as the digest of its checkpoint. Defaults to
            detecting everything anew.
        max_pixels: The most pixels that an image may have.
        on_unreadable: Called with the error of an image that cannot be read or does not have the
            size in ``image_info``. The others are still detected, but the results file, which would
            be incomplete, is not written, and an old one is removed. Defaults to raising the error.

    Returns:
        The results file.

    Raises:
        FileNotFoundError: If ``image_info`` or an image that it lists is missing.
        ValueError: If ``image_info`` is broken, lists no image or other categories than the model
            finds, an image does not have the size in it and there is no ``on_unreadable``, a file
            in ``out`` is for other images, or ``out`` is inside ``images``.
        OSError: If an image cannot be read or has too many pixels (with ``on_unreadable``, after
            all others are done), or a file cannot be written.
    """
    path, images, out = Path(image_info), Path(images), Path(out)
    check_outside(images, out)
    content = read_image_info(path)
    _check_categories(path, content["categories"], categories)
    listed = CocoImages(path, content["images"], images, max_pixels)
    outputs = {id: out / "results" / f"{id}.json" for id in listed.ids}
    device = next(model.parameters(), torch.empty(0)).device
    records = Records(out / "records", model_digest, dict(categories))
    skipped = 0
    with evaluation_mode(model):
        numbers = tqdm(
            range(len(listed)), desc="detect", unit="image", disable=not progress or None
        )
        for number in numbers:
            id = listed.ids[number]
            image_path = listed.paths[number]
            if not records.start(str(id), image_path, [outputs[id]]):
                continue
            picture = read_or_skip(partial(listed.read, number), [outputs[id]], on_unreadable)
            if picture is None:
                skipped += 1
                continue
            image = F.to_dtype(picture, torch.float32, scale=True).to(device)
            (detected,) = model([image])
            write_detections(outputs[id], detections_to_coco(id, detected, [*categories]))
            records.finish(str(id), image_path)
    results = out / f"detections_{path.stem.removeprefix('image_info_')}_dyngraph_results.json"
    if skipped:
        results.unlink(missing_ok=True)
        raise OSError(
            f"{results}: not written: expected all {len(listed)} images of {path}, but {skipped} "
            "could not be read"
        )
    write_file(results, f"[{', '.join(_detections(outputs))}]".encode())
    return results


def _check_categories(
    path: Path, found: Sequence[dict[str, Any]], expected: Mapping[int, str]
) -> None:
    names: dict[int, str] = {category["id"]: category["name"] for category in found}
    for id in sorted({*names, *expected}):
        if names.get(id) != expected.get(id):
            raise ValueError(
                f"{path}: categories, id {id}: expected {expected.get(id)!r}, as the data set "
                f"has it, got {names.get(id)!r}"
            )


def _detections(outputs: Mapping[int, Path]) -> Iterator[str]:
    """All detections in JSON. Not as objects: there are millions of them."""
    for id, path in outputs.items():
        for detection in read_detections(path):
            if detection["image_id"] != id:
                raise ValueError(f"{path}: image_id: expected {id}, got {detection['image_id']}")
            yield json.dumps(detection)
