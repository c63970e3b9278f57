"""A page on which to look at what a model listens to."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype

from dyngraph.data.labels import IGNORE
from dyngraph.data.transforms import denormalize
from dyngraph.models import HubModel
from dyngraph.viz.colours import distinct_colours
from dyngraph.viz.findings import Objects, Segmentation, read_objects, read_output
from dyngraph.viz.packing import (
    choose_every,
    pack_classes,
    pack_layer,
    pack_objects,
    pack_segmentation,
)
from dyngraph.viz.page import Viewer, render_page
from dyngraph.viz.recorder import Recording, record

MOST_BYTES = 8_000_000
"""What samples may take on a page before they are compressed."""

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]


class NoLayersError(ValueError):
    r"""That no layer of a model listens to samples."""


def explore(
    model: Models,
    image: Any,
    *,
    picture: Tensor | None = None,
    label: Tensor | Mapping[str, Tensor] | None = None,
    class_names: Sequence[str] | None = None,
    palette: Tensor | None = None,
    threshold: float = 0.5,
    title: str = "",
    most_bytes: int = MOST_BYTES,
) -> Viewer:
    r"""Makes a page on which to look at what a model listens to on an image.

    Point at a pixel, and the page shows the samples of the node there, with their weights; or who
    listens to it. The model runs once, in evaluation mode. Its layers are found by walking its
    modules: those of :mod:`dyngraph.nn` on grids, modules of transformers with multi-scale
    deformable attention, and deformable convolutions. Predictions are shown if the model returns
    them as segmenters and detectors of dyngraph, torchvision and transformers do.

    Positions are stored in steps of 1/64 node (coarser where samples are more than 512 nodes away),
    weights in 8 bits. If there are too many, the page has those of every second node along both
    axes, or fewer, of the largest layers; a Non-local or criss-cross layer keeps the strongest
    samples of each node. The page says so.

    Args:
        model: A model; or several, which are shown side by side, by name or in a list.
        image: One image as the model takes it: a batch ``[1, 3, H, W]``, normalised as ImageNet's;
            a list of one image ``[3, H, W]`` in 0..1, as detectors take it; or a mapping of
            keyword arguments with ``pixel_values``, as models of transformers take them.
        picture: What is shown, ``[3, H, W]``, uint8. Defaults to ``image``.
        label: The true classes ``[H, W]``; 255 for none. Of a detector, the true objects, as
            torchvision's targets have them: ``boxes``, ``labels`` and, if there are any, ``masks``.
        class_names: The names of the classes. Defaults to the model's ``class_names``, else to
            numbers.
        palette: Their colours, ``[C, 3]``, uint8. Defaults to colours that are told apart.
        threshold: The smallest score of an object that is shown.
        title: What is written above the image, such as its name.
        most_bytes: What samples may take before they are compressed; the page takes about half to
            two thirds of it.

    Returns:
        The page: :meth:`Viewer.save` writes it to a file, and a notebook shows it.

    Raises:
        TypeError: If ``image`` is none of these.
        ValueError: If there is not one image, no model has such a layer, or ``picture``, ``label``
            or ``palette`` does not fit.

    Example:
        >>> import torch
        >>> from dyngraph.models import segmenter
        >>> from dyngraph.viz import explore
        >>> model = segmenter("small_trunk", "repgraph", head_channels=16)
        >>> viewer = explore(model, torch.randn(1, 3, 64, 128))
        >>> "<html" in viewer.page
        True
    """
    models = _by_name(model)
    pixels = _pixels(image)
    if picture is None:
        in_unit_range = isinstance(image, (list, tuple))
        shown = to_dtype(pixels, torch.uint8, scale=True) if in_unit_range else denormalize(pixels)
    else:
        shown = picture
    size = (pixels.shape[1], pixels.shape[2])
    _check_picture(shown, size)
    true_classes, true_objects = _read_label(label, size)
    recordings = {name: record(each, partial(_run, each, image)) for name, each in models.items()}
    _check_layers(models, recordings)
    layers = [layer for recording in recordings.values() for layer in recording.layers]
    every = iter(choose_every(layers, most_bytes))
    found = {
        name: read_output(recording.output, size, threshold)
        for name, recording in recordings.items()
    }
    names = _class_names(class_names, models)
    count = max(len(names), _num_classes([*found.values(), (None, true_objects)], true_classes))
    page = {
        "title": title,
        "picture": {"height": size[0], "width": size[1], "data": _jpeg(shown)},
        "classes": names + [f"class {number}" for number in range(len(names), count)],
        "palette": _palette(palette, count).tolist(),
        "label": None if true_classes is None else pack_classes(true_classes),
        "objects": pack_objects(true_objects),
        "models": [
            {
                "name": name,
                "cover": list(recording.cover),
                "layers": [pack_layer(layer, next(every)) for layer in recording.layers],
                "leftOut": recording.left_out,
                "segmentation": pack_segmentation(found[name][0]),
                "objects": pack_objects(found[name][1]),
            }
            for name, recording in recordings.items()
        ],
    }
    return Viewer(render_page(page))


def _by_name(model: Models) -> dict[str, nn.Module]:
    if isinstance(model, Mapping):
        models = dict(model)
    else:
        parts = [model] if isinstance(model, nn.Module) else [*model]
        kinds = [type(part).__name__ for part in parts]
        models = {
            kind if kinds.count(kind) == 1 else f"{kind} {number}": part
            for number, (kind, part) in enumerate(zip(kinds, parts, strict=True), start=1)
        }
    if not models or not all(isinstance(part, nn.Module) for part in models.values()):
        raise ValueError(f"model: expected a module or several, got {model!r}")
    return models


def _pixels(image: Any) -> Tensor:
    """The colours ``[3, H, W]`` in an image as a model takes it."""
    batch: Any = None
    if isinstance(image, Tensor):
        batch = image
    elif isinstance(image, (list, tuple)) and all(isinstance(part, Tensor) for part in image):
        if len(image) != 1:
            raise ValueError(f"image: expected one, got {len(image)}")
        batch = image[0].unsqueeze(0)
    elif isinstance(image, Mapping):
        batch = image.get("pixel_values")
    if not isinstance(batch, Tensor):
        raise TypeError(
            f"image: expected a batch, a list of one image or a mapping with pixel_values, "
            f"got {type(image).__name__}"
        )
    if batch.dim() != 4 or batch.shape[:2] != (1, 3):
        raise ValueError(f"image: expected one, [1, 3, H, W], got shape {list(batch.shape)}")
    return batch[0]


def _run(model: nn.Module, image: Any) -> Any:
    return model(**image) if isinstance(image, Mapping) else model(image)


def _check_picture(picture: Tensor, size: tuple[int, int]) -> None:
    if picture.dtype != torch.uint8 or list(picture.shape) != [3, *size]:
        raise ValueError(
            f"picture: expected {[3, *size]}, uint8, as the image, "
            f"got {list(picture.shape)}, {picture.dtype}"
        )


def _read_label(
    label: Tensor | Mapping[str, Tensor] | None, size: tuple[int, int]
) -> tuple[Tensor | None, Objects | None]:
    """The true classes, or the true objects."""
    if isinstance(label, Mapping):
        _check_objects(label, size)
        return None, read_objects(label, size)
    if label is None:
        return None, None
    if tuple(label.shape) != size:
        raise ValueError(f"label: expected shape {list(size)}, got {list(label.shape)}")
    if label.min() < 0 or label.max() > IGNORE:
        low, high = int(label.min()), int(label.max())
        raise ValueError(f"label: expected classes in 0..{IGNORE}, got {low}..{high}")
    return label, None


def _check_objects(label: Mapping[str, Tensor], size: tuple[int, int]) -> None:
    missing = [name for name in ("boxes", "labels") if name not in label]
    if missing:
        raise ValueError(f"label: expected boxes and labels, got none called {missing[0]!r}")
    count = len(label["labels"])
    for name, shape in [("boxes", [count, 4]), ("labels", [count]), ("masks", [count, *size])]:
        if name in label and list(label[name].shape) != shape:
            raise ValueError(
                f"label: {name}: expected shape {shape}, got {list(label[name].shape)}"
            )
    if count and label["labels"].min() < 1:
        raise ValueError(
            f"label: labels: expected classes from 1, got {int(label['labels'].min())}"
        )


def _check_layers(models: Mapping[str, nn.Module], recordings: Mapping[str, Recording]) -> None:
    if any(recording.layers for recording in recordings.values()):
        return
    kinds = ", ".join(type(each).__name__ for each in models.values())
    left_out = [
        f"; {k} is left out: {v}" for r in recordings.values() for k, v in r.left_out.items()
    ]
    raise NoLayersError(
        f"model: expected one with a layer that listens to samples, got {kinds}{''.join(left_out)}"
    )


def _num_classes(
    found: Iterable[tuple[Segmentation | None, Objects | None]], label: Tensor | None
) -> int:
    """How many classes need a name and a colour."""
    count = 1
    for segmentation, objects in found:
        if segmentation is not None:
            count = max(count, segmentation.num_classes)
        if objects is not None and len(objects.labels):
            count = max(count, int(objects.labels.max()) + 1)
    if label is not None and (label != IGNORE).any():
        count = max(count, int(label[label != IGNORE].max()) + 1)
    return count


def _class_names(names: Sequence[str] | None, models: Mapping[str, nn.Module]) -> list[str]:
    if names is not None:
        return [*names]
    for model in models.values():
        if isinstance(model, HubModel) and model.class_names is not None:
            return [*model.class_names]
    # How models of transformers have them.
    configs: list[Any] = [getattr(model, "config", None) for model in models.values()]
    known: Mapping[int, str] = next((c.id2label for c in configs if hasattr(c, "id2label")), {})
    return [str(known.get(number, f"class {number}")) for number in range(len(known))]


def _palette(palette: Tensor | None, count: int) -> Tensor:
    if palette is None:
        return distinct_colours(count)
    if palette.dim() != 2 or palette.shape[1] != 3 or palette.dtype != torch.uint8:
        raise ValueError(
            f"palette: expected [C, 3], uint8, got {list(palette.shape)}, {palette.dtype}"
        )
    if len(palette) < count:
        raise ValueError(f"palette: expected {count} colours, got {len(palette)}")
    return palette


def _jpeg(picture: Tensor) -> str:
    content = io.BytesIO()
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    # With all of the colours: a small picture is shown large.
    Image.fromarray(pixels).save(content, format="JPEG", quality=90, subsampling=0)
    return base64.b64encode(content.getvalue()).decode("ascii")
