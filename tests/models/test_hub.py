import subprocess
import sys

import pytest
import torch
from test_dgmn2 import SMALL

from dyngraph.models import DGMN2, DGMN2Classifier


@pytest.mark.parametrize(("make", "kwargs"), [(DGMN2, {}), (DGMN2Classifier, {"num_classes": 5})])
def test_models_are_saved_to_folders_and_loaded(make, kwargs, tmp_path):
    model = make(**SMALL, **kwargs).eval()
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    loaded = make.from_pretrained(tmp_path)
    assert not loaded.training
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(image), model(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"depths": 3}'),
        ("config.json", b'{"depths": [2, 1, 1, 1]}'),
        ("model.safetensors", b"no weights"),
    ],
)
def test_broken_folders_are_named(tmp_path, name, content):
    DGMN2(**SMALL).save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=f"^{tmp_path}: expected a model of DGMN2, got "):
        DGMN2.from_pretrained(tmp_path)


WITHOUT_THE_HUB = """
import sys
sys.modules["huggingface_hub"] = sys.modules["safetensors"] = None
from dyngraph.models import DGMN2, load_safetensors, save_safetensors
model = DGMN2((1, 1, 1, 1), (8, 8, 8, 8), heads=(1, 1, 1, 1))
model.state_dict()
for run in (
    lambda: model.save_pretrained("x"),
    lambda: model.push_to_hub("x"),
    lambda: DGMN2.from_pretrained("x"),
    lambda: save_safetensors(model, "x"),
    lambda: load_safetensors(model, "x"),
):
    try:
        run()
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_models_need_no_hub():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_HUB], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    names = ["save_pretrained", "push_to_hub", "from_pretrained"]
    assert result.stdout.splitlines() == [
        *[f"{name} needs huggingface_hub: pip install 'dyngraph[hub]'" for name in names],
        "save_safetensors needs safetensors: pip install 'dyngraph[hub]'",
        "load_safetensors needs safetensors: pip install 'dyngraph[hub]'",
    ]
