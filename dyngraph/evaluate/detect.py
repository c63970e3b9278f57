"""Detections for a folder of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from dyngraph.data.files import MAX_PIXELS, read_rgb, write_file, write_png
from dyngraph.evaluate.coco import detections_to_coco, write_detections
from dyngraph.evaluate.image_folder import check_distinct, check_outside, find_images
from dyngraph.evaluate.records import Records
from dyngraph.evaluate.unreadable import OnUnreadable, read_or_skip
from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.viz import draw_detections, draw_detector_listening


@torch.inference_mode()
def detect_folder(
    model: MaskRCNN,
    images: str | Path,
    out: str | Path,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    palette: Tensor,
    threshold: float = 0.5,
    progress: bool = True,
    model_digest: str | None = None,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: OnUnreadable | None = None,
) -> list[Path]:
    r"""Detects objects in the images of a folder and writes what is found.

    For every PNG or JPEG image in ``images`` and the folders below, there will be

    - ``detections/….json``, a list of all detections: ``category``, ``category_id``, ``bbox``
      (x, y, width, height, in pixels), ``score`` and ``segmentation``, as COCO's results have them;
    - ``overlays/….png``, the image with the boxes and masks of those above the threshold;
    - ``nodes/….png`` for a model with RepGraph layers, ``rates/….png`` with DGMN layers: what the
      middle of these objects listens to,

    where … is the path of the image in ``images`` without its suffix. Images are upright, as
    viewers show them: turned as their EXIF orientation says. So is what is written.

    No file is ever half-written. With a ``model_digest``, ``records/….json`` says which model and
    image they come from, and an image is skipped if its detections come from both, so that an
    interrupted run continues where it stopped.

    Args:
        model: A detector, such as :func:`~dyngraph.models.mask_rcnn`. It runs in evaluation mode,
            on the device of its parameters.
        images: The folder of images.
        out: The folder to write, made if it's missing. It must not be inside ``images``.
        class_names: The names of the classes, for the labels 1, 2, ….
        category_ids: COCO's number of each class.
        palette: The colour of each class, ``[C, 3]``, uint8.
        threshold: The smallest score of an object that is drawn.
        progress: Whether to show a progress bar.
        model_digest: Identifies the model, such as the digest of its checkpoint. Defaults to
            detecting everything anew.
        max_pixels: The most pixels that an image may have.
        on_unreadable: Called with the error of an image that cannot be read, which is then skipped;
            its old detections are removed. Defaults to raising the error.

    Returns:
        The JSON files of the images that were not skipped, sorted by image.

    Raises:
        FileNotFoundError: If ``images`` is missing.
        ValueError: If ``images`` has no image, or two that would be written to one file, or ``out``
            is inside ``images``.
        OSError: If a file cannot be read as a PNG or JPEG image, or has more pixels than
            ``max_pixels``, and there is no ``on_unreadable``; or one cannot be written.
    """
    images, out = Path(images), Path(out)
    check_outside(images, out)
    paths = find_images(images)
    outputs = {path: out / "detections" / _name(path, images, ".json") for path in paths}
    check_distinct({path: [output] for path, output in outputs.items()})
    device = next(model.parameters(), torch.empty(0)).device
    names = dict(zip(category_ids, class_names, strict=True))
    settings = names, palette.tolist(), threshold
    records = Records(out / "records", model_digest, *settings)
    with evaluation_mode(model):
        for path in tqdm(paths, desc="detect", unit="image", disable=not progress or None):
            record = path.relative_to(images).with_suffix("")
            if not records.start(record, path, [outputs[path]]):
                continue
            picture = read_or_skip(
                partial(read_rgb, path, max_pixels), [outputs[path]], on_unreadable
            )
            if picture is None:
                del outputs[path]
                continue
            image = F.to_dtype(picture, torch.float32, scale=True).to(device)
            (detected,) = model([image])
            overlay = draw_detections(picture, detected, class_names, palette, threshold=threshold)
            name = _name(path, images, ".png")
            write_png(out / "overlays" / name, overlay.permute(1, 2, 0).numpy())
            _draw_listening(model, image, detected, threshold, out, name)
            write_detections(outputs[path], _named(detected, category_ids, names))
            records.finish(record, path)
    return [*outputs.values()]


def _name(path: Path, images: Path, suffix: str) -> Path:
    return path.relative_to(images).with_suffix(suffix)


def _named(
    detected: dict[str, Tensor], category_ids: Sequence[int], names: dict[int, str]
) -> list[dict[str, Any]]:
    """COCO's results with names of classes, for an image that has no number."""
    results = detections_to_coco(0, detected, category_ids)
    return [
        {"category": names[result["category_id"]]}
        | {key: value for key, value in result.items() if key != "image_id"}
        for result in results
    ]


def _draw_listening(
    model: MaskRCNN,
    image: Tensor,
    detected: dict[str, Tensor],
    threshold: float,
    out: Path,
    name: Path,
) -> None:
    boxes = detected["boxes"][detected["scores"] >= threshold]
    for kind, figure in draw_detector_listening(model, image, boxes):
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_file(out / kind / name, content.getvalue())
