"""Networks with dyngraph's blocks. Needs torchvision: ``pip install 'dyngraph[train]'``."""

try:
    import torchvision  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.models needs torchvision: pip install 'dyngraph[train]'") from error

from dyngraph.models.backbone import DilatedResNet, SmallTrunk
from dyngraph.models.insert import (
    insert,
    inserted_parameters,
    insertions,
    remove_insertions,
)
from dyngraph.models.mask_rcnn import mask_rcnn
from dyngraph.models.segmenter import Segmenter, segmenter

__all__ = [
    "DilatedResNet",
    "Segmenter",
    "SmallTrunk",
    "insert",
    "inserted_parameters",
    "insertions",
    "mask_rcnn",
    "remove_insertions",
    "segmenter",
]
