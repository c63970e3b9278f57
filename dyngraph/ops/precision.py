"""The types in which features are summed."""

import torch


def accumulator(dtype: torch.dtype) -> torch.dtype:
    r"""The dtype of sums over features of a dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)
