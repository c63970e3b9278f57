"""The training loop. Needs torchvision and Lightning: ``pip install 'dyngraph[train]'``."""

try:
    import lightning  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.train needs lightning: pip install 'dyngraph[train]'") from error

from dyngraph.train.checkpoint import load_weights, read_checkpoint
from dyngraph.train.detection_data_module import DetectionDataModule
from dyngraph.train.detection_task import DetectionTask
from dyngraph.train.fit import fit
from dyngraph.train.interruption import Interrupted
from dyngraph.train.log import read_log
from dyngraph.train.loss import ignore_easy_pixels, segmentation_loss
from dyngraph.train.optimizer import parameter_groups
from dyngraph.train.pictures import LogDetections, LogPictures
from dyngraph.train.place_samples import PlaceSamples
from dyngraph.train.segmentation_data_module import SegmentationDataModule
from dyngraph.train.segmentation_task import SegmentationTask

__all__ = [
    "DetectionDataModule",
    "DetectionTask",
    "Interrupted",
    "LogDetections",
    "LogPictures",
    "PlaceSamples",
    "SegmentationDataModule",
    "SegmentationTask",
    "fit",
    "ignore_easy_pixels",
    "load_weights",
    "parameter_groups",
    "read_checkpoint",
    "read_log",
    "segmentation_loss",
]
