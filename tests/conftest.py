import os

import pytest
import torch
from hypothesis import settings

# Before the kernels are defined: without a GPU, Triton's interpreter runs them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# The same examples in every run: a failure is then the fault of a change, not of a draw.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")
# Small tensors gain nothing from threads, and parallel test workers would fight over the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
