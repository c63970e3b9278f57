"""Predictions for a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dyngraph.data.cityscapes import PALETTE
from dyngraph.data.files import MAX_PIXELS, read_rgb, write_png
from dyngraph.data.labels import IGNORE
from dyngraph.data.transforms import eval_transform
from dyngraph.evaluate.cityscapes import prediction_path, write_prediction
from dyngraph.evaluate.image_folder import check_distinct, check_outside, find_images
from dyngraph.evaluate.inference import Inference
from dyngraph.evaluate.records import Records
from dyngraph.evaluate.unreadable import OnUnreadable, read_or_skip
from dyngraph.evaluation_mode import evaluation_mode
from dyngraph.viz.segmentation import colorize

_CITYSCAPES_SUFFIX = "_leftImg8bit.png"


@torch.inference_mode()
def predict_folder(
    model: nn.Module,
    images: str | Path,
    out: str | Path,
    inference: Inference,
    *,
    palette: Tensor = PALETTE,
    label_ids: bool = False,
    progress: bool = True,
    paths: Sequence[Path] | None = None,
    normalize: Callable[[Tensor], Tensor] | None = None,
    model_digest: str | None = None,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: OnUnreadable | None = None,
) -> list[Path]:
    r"""Segments the images of a folder and writes what is found as PNG files.

    For every PNG or JPEG image in ``images`` and the folders below, there will be

    - ``labels/….png``, the class of every pixel, 8-bit grey;
    - ``overlays/….png``, the image blended with the colours of the classes;
    - with ``label_ids``, ``label_ids/…_pred_labelIds.png``, for Cityscapes' evaluation server,

    where … is the path of the image in ``images`` without its suffix; the server wants one folder,
    so the last has only the name. Images are upright, as viewers show them: turned as their EXIF
    orientation says. So is what is written.

    No file is ever half-written. With a ``model_digest``, ``records/….json`` says which model and
    image they come from, and an image is skipped if its files come from both, so that an
    interrupted run continues where it stopped.

    Args:
        model: From normalised images ``[1, 3, H, W]`` to class scores ``[1, C, H, W]``, such as a
            :class:`~dyngraph.train.SegmentationTask`. It runs in evaluation mode, on the device and
            in the dtype of its parameters.
        images: The folder of images.
        out: The folder to write, made if it's missing. It must not be inside ``images``.
        inference: How the model sees an image.
        palette: The RGB colours of the classes, ``[C, 3]``, uint8.
        label_ids: Whether classes are the training ids of Cityscapes, to be written as its label
            ids too. The names of all images must then end in ``_leftImg8bit.png``.
        progress: Whether to show a progress bar, on a terminal.
        paths: The images in the folder to predict. Defaults to all.
        normalize: From images ``[3, H, W]``, uint8, to what the model sees. Defaults to
            :func:`~dyngraph.data.eval_transform`.
        model_digest: Identifies the model, such as the digest of its checkpoint. Defaults to
            predicting everything anew.
        max_pixels: The most pixels that an image may have.
        on_unreadable: Called with the error of an image that cannot be read, which is then skipped;
            its old files are removed. Defaults to raising the error.

    Returns:
        The label files of the images that were not skipped, sorted by image.

    Raises:
        FileNotFoundError: If ``images`` is missing.
        ValueError: If ``images`` has no image, or two that would be written to one file, ``out`` is
            inside ``images``, ``palette`` is not ``[C, 3]``, uint8, with at most 255 colours or has
            fewer than the model has classes, a name does not fit ``label_ids``, or the model
            returns anything but scores of its input's size.
        OSError: If a file cannot be read as a PNG or JPEG image, or has more pixels than
            ``max_pixels``, and there is no ``on_unreadable``; or one cannot be written.
    """
    images, out = Path(images), Path(out)
    if palette.dim() != 2 or palette.shape[1] != 3 or palette.dtype != torch.uint8:
        shape = list(palette.shape)
        raise ValueError(f"palette: expected [C, 3], uint8, got {shape}, {palette.dtype}")
    if len(palette) > IGNORE:
        raise ValueError(f"palette: expected at most {IGNORE} colours, got {len(palette)}")
    check_outside(images, out)
    paths = find_images(images) if paths is None else sorted(paths)
    outputs = {path: _outputs(path, images, out, label_ids) for path in paths}
    check_distinct(outputs)
    normalize = eval_transform() if normalize is None else normalize
    records = Records(out / "records", model_digest, inference, palette.tolist())
    parameter = next(model.parameters(), torch.empty(0))
    with evaluation_mode(model):
        for path in tqdm(paths, desc="predict", unit="image", disable=not progress or None):
            name = path.relative_to(images).with_suffix("")
            if not records.start(name, path, outputs[path]):
                continue
            picture = read_or_skip(
                partial(read_rgb, path, max_pixels), outputs[path], on_unreadable
            )
            if picture is None:
                del outputs[path]
                continue
            image = normalize(picture).unsqueeze(0).to(parameter)
            probabilities = inference(model, image)[0]
            if len(probabilities) > len(palette):
                raise ValueError(
                    f"palette: expected {len(probabilities)} colours, one for each class of the "
                    f"model, got {len(palette)}"
                )
            classes = probabilities.argmax(dim=0).to(torch.uint8).cpu()
            labels, overlay, *_ = outputs[path]
            write_png(labels, classes.numpy())
            write_png(overlay, _blend(picture, colorize(classes, palette)))
            if label_ids:
                write_prediction(out / "label_ids", path, classes)
            records.finish(name, path)
    return [labels for labels, *_ in outputs.values()]


def _outputs(path: Path, images: Path, out: Path, label_ids: bool) -> list[Path]:
    """The files for an image: labels, overlay and, if asked for, label ids."""
    name = path.relative_to(images).with_suffix(".png")
    outputs = [out / "labels" / name, out / "overlays" / name]
    if label_ids:
        if not path.name.endswith(_CITYSCAPES_SUFFIX):
            raise ValueError(
                f"label_ids: expected images with names …{_CITYSCAPES_SUFFIX}, got {path}"
            )
        outputs.append(prediction_path(out / "label_ids", path))
    return outputs


def _blend(picture: Tensor, colors: Tensor) -> np.ndarray:
    return ((picture.int() + colors.int()) // 2).to(torch.uint8).permute(1, 2, 0).numpy()
