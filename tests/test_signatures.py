"""Options are given by name: what comes after the first few arguments is keyword-only."""

import importlib
import inspect

import pytest

PACKAGES = ["nn", "nn.conv", "samplers", "ops", "models", "data", "train", "evaluate", "viz"]


def public_callables():
    for package in ("dyngraph", *(f"dyngraph.{name}" for name in PACKAGES)):
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            # The constructor of a detector is torchvision's.
            made_by = getattr(getattr(thing, "__init__", None), "__module__", None) or ""
            is_ours = callable(thing) and thing.__module__.startswith("dyngraph")
            if is_ours and not made_by.startswith("torchvision"):
                yield f"{thing.__module__}.{name}", thing


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_few_optional_arguments_are_positional(name):
    parameters = inspect.signature(CALLABLES[name]).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    optional = [p.name for p in positional if p.default is not p.empty]
    assert len(positional) <= 5
    assert len(optional) <= 2
