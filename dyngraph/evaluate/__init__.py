"""Running and measuring models: predictions, quality and cost."""

from dyngraph.evaluate.inference import Inference
from dyngraph.evaluate.multiply_adds import MultiplyAdds, count_multiply_adds
from dyngraph.evaluate.segmentation import class_iou, mean_iou, pixel_accuracy

__all__ = [
    "Inference",
    "MultiplyAdds",
    "class_iou",
    "count_multiply_adds",
    "mean_iou",
    "pixel_accuracy",
]
