"""Data sets for segmentation and detection, their transforms and sampling, and generated sets.

Needs torchvision: ``pip install 'dyngraph[train]'``.
"""

try:
    import torchvision  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.data needs torchvision: pip install 'dyngraph[train]'") from error

from dyngraph.data.ade20k import ADE20KSegmentation
from dyngraph.data.camvid import CamVidSegmentation
from dyngraph.data.cityscapes import (
    CLASS_NAMES,
    ID_TO_TRAIN_ID,
    PALETTE,
    TRAIN_ID_TO_ID,
    CityscapesSegmentation,
    decode_labels,
    encode_labels,
)
from dyngraph.data.coco import CocoClasses, CocoDetection
from dyngraph.data.datasets import DATASETS, GENERATORS
from dyngraph.data.folder import FolderSegmentation
from dyngraph.data.generated import (
    FAR_CLASSES,
    NEAR_CLASSES,
    OBJECT_CLASSES,
    generate_ade20k,
    generate_camvid,
    generate_coco,
    generate_folder,
    generate_pascal_context,
    generate_scenes,
)
from dyngraph.data.labels import IGNORE
from dyngraph.data.pascal_context import PascalContextSegmentation
from dyngraph.data.sampling import ResumableLoader, SeededSampler
from dyngraph.data.segmentation_dataset import SegmentationDataset
from dyngraph.data.transforms import (
    denormalize,
    detection_eval_transform,
    detection_train_transform,
    eval_transform,
    train_transform,
)

__all__ = [
    "CLASS_NAMES",
    "DATASETS",
    "FAR_CLASSES",
    "GENERATORS",
    "ID_TO_TRAIN_ID",
    "IGNORE",
    "NEAR_CLASSES",
    "OBJECT_CLASSES",
    "PALETTE",
    "TRAIN_ID_TO_ID",
    "ADE20KSegmentation",
    "CamVidSegmentation",
    "CityscapesSegmentation",
    "CocoClasses",
    "CocoDetection",
    "FolderSegmentation",
    "PascalContextSegmentation",
    "ResumableLoader",
    "SeededSampler",
    "SegmentationDataset",
    "decode_labels",
    "denormalize",
    "detection_eval_transform",
    "detection_train_transform",
    "encode_labels",
    "eval_transform",
    "generate_ade20k",
    "generate_camvid",
    "generate_coco",
    "generate_folder",
    "generate_pascal_context",
    "generate_scenes",
    "train_transform",
]
