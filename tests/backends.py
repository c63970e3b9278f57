"""The backends that can be tested here: a machine without a compiler has no C++ kernels."""

import torch

from dyngraph.ops.kernels import KERNELS as _ALL

_CPU = torch.device("cpu")

#: The sets of kernels that run on this machine's CPU, Triton's in its interpreter.
KERNELS = [name for name, kernels in _ALL.items() if not kernels.reasons_against(_CPU, named=True)]
BACKENDS = [*KERNELS, "pyg"]
