"""What speaks against Triton's kernels."""

import os
from importlib.util import find_spec

import torch

HAS_TRITON = find_spec("triton") is not None


def reasons_against(device: torch.device, *, named: bool) -> list[str]:
    r"""See :meth:`~dyngraph.ops.kernels.interface.KernelSet.reasons_against`."""
    reasons = [] if HAS_TRITON else ["Triton is missing: pip install triton"]
    if device.type != "cuda":
        if not is_interpreted():
            reasons.append(f"expected tensors on CUDA, got them on {device}")
        elif not named:
            reasons.append("Triton's interpreter is for tests")
    return reasons


def is_interpreted() -> bool:
    r"""Whether Triton's interpreter runs the kernels, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
