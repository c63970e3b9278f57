"""Label files that number the classes from 1 and mean by 0 that a pixel has none."""

from __future__ import annotations

from torch import Tensor


def encode_one_based(values: Tensor, num_classes: int) -> Tensor:
    r"""The classes of values that count from 1.

    Args:
        values: Values ``0..num_classes`` of any shape, uint8.
        num_classes: The number of classes.

    Returns:
        Classes ``0..num_classes - 1``, or 255 for 0, of the shape of ``values``, uint8.

    Raises:
        ValueError: If a value is above ``num_classes``.
    """
    unknown = values > num_classes
    if unknown.any():
        raise ValueError(f"values: expected 0..{num_classes}, got {int(values[unknown][0])}")
    # In uint8, 0 - 1 is 255.
    return values - 1
