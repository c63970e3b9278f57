import os
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings

# Before the kernels are defined: without a GPU, Triton's interpreter runs them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    if find_spec("triton"):
        import fast_interpreter

        fast_interpreter.install()
# The same examples in every run: a failure is then the fault of a change, not of a draw.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")
# Small tensors gain nothing from threads, and parallel test workers would fight over the cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In Triton's interpreter all of its tests are slow but for those of the kernels themselves."""
    if torch.cuda.is_available():
        return
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("backend") == "triton" and "triton" not in item.path.name:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is a GPU, the tests of the Triton backend run on it."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    triton = parameters.get("backend") == "triton" or "triton" in request.node.path.name
    with torch.device("cuda") if triton and torch.cuda.is_available() else nullcontext():
        yield
