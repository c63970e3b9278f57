"""The data sets by name, and generators of small ones in their formats."""

from __future__ import annotations

from collections.abc import Callable

from dyngraph.data.ade20k import ADE20KSegmentation
from dyngraph.data.camvid import CamVidSegmentation
from dyngraph.data.cityscapes import CityscapesSegmentation
from dyngraph.data.folder import FolderSegmentation
from dyngraph.data.generated import (
    generate_ade20k,
    generate_camvid,
    generate_folder,
    generate_pascal_context,
    generate_scenes,
)
from dyngraph.data.pascal_context import PascalContextSegmentation
from dyngraph.data.segmentation_dataset import SegmentationDataset

DATASETS: dict[str, type[SegmentationDataset]] = {
    "ade20k": ADE20KSegmentation,
    "camvid": CamVidSegmentation,
    "cityscapes": CityscapesSegmentation,
    "folder": FolderSegmentation,
    "pascal_context": PascalContextSegmentation,
}
"""The data sets by name, each a class that takes ``root``, ``split`` and ``transform``."""

GENERATORS: dict[str, Callable[..., None]] = {
    "ade20k": generate_ade20k,
    "camvid": generate_camvid,
    "cityscapes": generate_scenes,
    "folder": generate_folder,
    "pascal_context": generate_pascal_context,
}
"""Functions by the same names that write a set in that format.

Each takes ``root``, ``num_train``, ``num_val``, ``seed`` and ``progress``.
"""
