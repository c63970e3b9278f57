import pytest
import torch
from safetensors.torch import load_file
from test_dgmn2 import SMALL

from dyngraph.models import DGMN2Classifier, load_safetensors, save_safetensors, segmenter


def test_round_trip(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = DGMN2Classifier(5, **SMALL).to(memory_format=torch.channels_last)
    save_safetensors(model, path)
    assert load_file(path).keys() == model.state_dict().keys()
    other = DGMN2Classifier(5, **SMALL)
    load_safetensors(other, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_any_model(tmp_path):
    path = tmp_path / "weights.safetensors"
    model, other = (segmenter("small_trunk", "repgraph", head_channels=8) for _ in range(2))
    save_safetensors(model, path)
    load_safetensors(other, str(path))
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(model.eval()(image)["out"], other.eval()(image)["out"])


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = DGMN2Classifier(5, **SMALL)
    with pytest.raises(OSError, match=rf"^{path}: expected a readable safetensors file"):
        load_safetensors(model, path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(OSError, match=rf"^{path}: expected a readable safetensors file"):
        load_safetensors(model, path)
    with pytest.raises(OSError, match=f"{path}"):
        save_safetensors(model, path / "below_a_file")
    save_safetensors(model, path)
    with pytest.raises(ValueError, match=rf"^{path}: expected the weights of this model"):
        load_safetensors(DGMN2Classifier(6, **SMALL), path)
