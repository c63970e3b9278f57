"""Networks with dyngraph's blocks. Needs torchvision: ``pip install 'dyngraph[train]'``."""

try:
    import torchvision  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.models needs torchvision: pip install 'dyngraph[train]'") from error

from dyngraph.models.aspp_head import ASPPHead
from dyngraph.models.backbone import DilatedResNet, SmallTrunk
from dyngraph.models.danet_head import DANetHead
from dyngraph.models.dgmn2 import (
    DGMN2,
    DGMN2Classifier,
    dgmn2_large,
    dgmn2_medium,
    dgmn2_small,
    dgmn2_tiny,
)
from dyngraph.models.hub import HubModel, from_pretrained
from dyngraph.models.insert import (
    insert,
    inserted_parameters,
    insertions,
    remove_insertions,
)
from dyngraph.models.mask_rcnn import Detector, mask_rcnn
from dyngraph.models.nonlocal_head import NonLocalHead
from dyngraph.models.official import LoadReport, load_official
from dyngraph.models.safetensors_files import load_safetensors, save_safetensors
from dyngraph.models.segmenter import PyramidSegmenter, Segmenter, segmenter
from dyngraph.models.semantic_fpn import SemanticFPN

__all__ = [
    "DGMN2",
    "ASPPHead",
    "DANetHead",
    "DGMN2Classifier",
    "Detector",
    "DilatedResNet",
    "HubModel",
    "LoadReport",
    "NonLocalHead",
    "PyramidSegmenter",
    "Segmenter",
    "SemanticFPN",
    "SmallTrunk",
    "dgmn2_large",
    "dgmn2_medium",
    "dgmn2_small",
    "dgmn2_tiny",
    "from_pretrained",
    "insert",
    "inserted_parameters",
    "insertions",
    "load_official",
    "load_safetensors",
    "mask_rcnn",
    "remove_insertions",
    "save_safetensors",
    "segmenter",
]
