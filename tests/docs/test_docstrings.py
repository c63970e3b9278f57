"""Every public layer, block, operator and sampler has an example in its docstring, which runs."""

import doctest

import pytest

import dyngraph
from dyngraph import nn, ops, samplers
from dyngraph.integrations import torchvision, transformers
from dyngraph.models import from_pretrained
from dyngraph.nn.conv import AttentionConv, DynamicMessage
from dyngraph.viz import explore

PUBLIC = [
    *(getattr(part, name) for part in (dyngraph, nn, ops, samplers) for name in part.__all__),
    AttentionConv,
    DynamicMessage,
    explore,
    from_pretrained,
    torchvision.accelerate,
    transformers.accelerate,
]
#: What others are an arrangement of; these say themselves what they compute.
OPERATORS = ["interpolate", "scatter_interpolate", *(n for n in ops.__all__ if "sampled" in n)]


@pytest.mark.parametrize("shown", PUBLIC, ids=lambda shown: shown.__name__)
def test_the_example_runs(shown):
    # Without any names: an example imports what it uses.
    test = doctest.DocTestParser().get_doctest(shown.__doc__, {}, shown.__name__, None, None)
    assert test.examples, f"{shown.__name__} has no example"
    report = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed == 0, "".join(
        report
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_shows_equivalent_pytorch(name):
    """That it is equal is for the example itself to say."""
    _, _, example = getattr(ops, name).__doc__.partition("Equivalent PyTorch:\n")
    last, said = example.rstrip().splitlines()[-2:]
    assert last.strip().startswith(">>> torch.allclose(")
    assert said.strip() == "True"
