"""The training loop. Needs torchvision and Lightning: ``pip install 'dyngraph[train]'``."""

try:
    import lightning  # noqa: F401
except ImportError as error:
    raise ImportError("dyngraph.train needs lightning: pip install 'dyngraph[train]'") from error

from dyngraph.train.data_module import CityscapesDataModule
from dyngraph.train.fit import fit
from dyngraph.train.parameters import parameter_groups
from dyngraph.train.task import SegmentationTask, segmentation_loss

__all__ = [
    "CityscapesDataModule",
    "SegmentationTask",
    "fit",
    "parameter_groups",
    "segmentation_loss",
]
