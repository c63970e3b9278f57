"""The models that torch.hub finds in a clone."""

import runpy
from pathlib import Path

import pytest
import torch
from test_hub import SMALL_DETECTOR

import dyngraph.models

ROOT = str(Path(__file__).parents[2])
CALLS = {
    "dgmn2_large": ([], {"num_classes": 3}),
    "dgmn2_medium": ([], {"num_classes": 3}),
    "dgmn2_small": ([], {"features_only": True}),
    "dgmn2_tiny": ([], {"num_classes": 3}),
    "mask_rcnn": ([], {"context": "repgraph", **SMALL_DETECTOR}),
    "segmenter": (["small_trunk", "repgraph"], {"head_channels": 16}),
}


@pytest.mark.parametrize("name", CALLS)
def test_torch_hub_builds_what_dyngraph_does(name):
    args, kwargs = CALLS[name]
    with torch.device("meta"):
        model = torch.hub.load(ROOT, name, *args, source="local", **kwargs)
        same = getattr(dyngraph.models, name)(*args, **kwargs)
    assert type(model) is type(same)
    assert model.recipe == same.recipe
    assert model.state_dict().keys() == same.state_dict().keys()
    assert dyngraph.models.__name__ in type(model).__module__


def test_torch_hub_loads_saved_models(tmp_path):
    args, kwargs = CALLS["segmenter"]
    model = torch.hub.load(ROOT, "segmenter", *args, source="local", **kwargs).eval()
    model.save_pretrained(tmp_path)
    same = torch.hub.load(ROOT, "from_pretrained", tmp_path, source="local")
    image = torch.rand(1, 3, 32, 40)
    torch.testing.assert_close(same(image), model(image), rtol=0, atol=0)


def test_those_are_all():
    names = runpy.run_path(f"{ROOT}/hubconf.py")["__all__"]
    assert names == sorted({*CALLS, "from_pretrained"})
