"""Generated data sets, in the formats of those that they stand in for.

Street scenes are for Cityscapes, strips for COCO, shapes for the other data sets.
"""

from dyngraph.data.generated.shapes import (
    generate_ade20k,
    generate_camvid,
    generate_folder,
    generate_pascal_context,
)
from dyngraph.data.generated.street_scenes import OBJECT_CLASSES, generate_scenes
from dyngraph.data.generated.strips import FAR_CLASSES, NEAR_CLASSES, generate_coco

__all__ = [
    "FAR_CLASSES",
    "NEAR_CLASSES",
    "OBJECT_CLASSES",
    "generate_ade20k",
    "generate_camvid",
    "generate_coco",
    "generate_folder",
    "generate_pascal_context",
    "generate_scenes",
]
