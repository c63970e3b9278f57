import copy
import io
import pickle

import pytest
import torch
from tiny_transformers import TINY, tiny_inputs, tiny_model, types_that_sample_levels
from torch import nn
from transformers import AutoModelForUniversalSegmentation

from dyngraph.integrations.subclass import Accelerated
from dyngraph.integrations.transformers import accelerate, restore

#: A module that is the function, one that holds it, one whose forward calls it by its name.
KINDS = ["rt_detr", "d_fine", "rt_detr_v2"]

#: The detectors that transformers can train.
WITH_LOSS = [
    "deformable_detr",
    "grounding_dino",
    "mm_grounding_dino",
    "rt_detr",
    "rt_detr_v2",
    "d_fine",
    "deimv2",
    "lw_detr",
    "rf_detr",
]


def tensors(output, name=""):
    """All tensors in an output, by the way to them."""
    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, dict):
        for key, value in output.items():
            yield from tensors(value, f"{name}.{key}")
    elif isinstance(output, (list, tuple)):
        for i, value in enumerate(output):
            yield from tensors(value, f"{name}.{i}")


def outputs_and_gradients(model, inputs):
    """Outputs, and the gradients of a random sum of them for all parameters."""
    torch.manual_seed(1)
    outputs = dict(tensors(model(**inputs)))
    total = sum(
        (output.masked_fill(~output.isfinite(), 0) * torch.randn_like(output)).sum()
        for output in outputs.values()
        if output.requires_grad
    )
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    # OmDet-Turbo keeps what it has computed from a text.
    options = {"retain_graph": True, "allow_unused": True}
    grads = torch.autograd.grad(total, list(parameters.values()), **options)
    return outputs, {k: g for k, g in zip(parameters, grads, strict=True) if g is not None}


def test_every_type_of_model_that_samples_levels_is_tested():
    assert set(types_that_sample_levels()) == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_models_compute_what_they_did(name):
    model, inputs = tiny_model(name), tiny_inputs(name)
    keys, text = list(model.state_dict()), repr(model)
    want, want_grads = outputs_and_gradients(model, inputs)
    count = accelerate(model)
    assert count == sum(isinstance(module, Accelerated) for module in model.modules()) > 0
    assert (list(model.state_dict()), repr(model)) == (keys, text)
    out, grads = outputs_and_gradients(model, inputs)
    torch.testing.assert_close(out, want, rtol=1e-11, atol=1e-11)
    assert any("sampling_offsets" in key and grad.any() for key, grad in grads.items())
    # Those of keys' biases, for one, are 0 but for rounding.
    size = max(grad.abs().max() for grad in want_grads.values())
    torch.testing.assert_close(grads, want_grads, rtol=1e-11, atol=1e-11 * float(size))


def loss_and_gradients(model, inputs):
    # Denoising queries are drawn.
    torch.manual_seed(1)
    loss = model(**inputs).loss
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss, [grad for grad in grads if grad is not None]


def check_that_the_loss_stays(model, inputs):
    want, want_grads = loss_and_gradients(model, inputs)
    assert accelerate(model) > 0
    loss, grads = loss_and_gradients(model, inputs)
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    size = max(grad.abs().max() for grad in want_grads)
    torch.testing.assert_close(grads, want_grads, rtol=1e-11, atol=1e-11 * float(size))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_LOSS)
def test_losses_stay_what_they_were(name):
    model, inputs = tiny_model(name), tiny_inputs(name)
    boxes = 0.2 + 0.3 * torch.rand(2, 2, 4, dtype=torch.float64)
    # Grounding DINO's classes are phrases of the text: there is one.
    classes = torch.tensor([0, 0 if "dino" in name else 1])
    inputs["labels"] = [{"class_labels": classes, "boxes": part} for part in boxes]
    check_that_the_loss_stays(model, inputs)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_losses_of_masks_stay_what_they_were(double):
    # Its matcher computes in the default type.
    model = tiny_model("mask2former", AutoModelForUniversalSegmentation)
    inputs = tiny_inputs("mask2former")
    inputs["mask_labels"] = [torch.randint(2, (2, 64, 96)).double() for _ in range(2)]
    inputs["class_labels"] = [torch.tensor([0, 1])] * 2
    check_that_the_loss_stays(model, inputs)


@pytest.mark.parametrize("name", KINDS)
def test_models_compute_what_they_did_in_single_precision(name):
    model, inputs = tiny_model(name).float(), tiny_inputs(name)
    inputs = {key: value.float() for key, value in inputs.items()}
    want = dict(tensors(model(**inputs)))
    accelerate(model)
    torch.testing.assert_close(dict(tensors(model(**inputs))), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_undoing(name):
    model = tiny_model(name)
    classes = [type(module) for module in model.modules()]
    want = dict(tensors(model(**tiny_inputs(name))))
    count = accelerate(model)
    assert (accelerate(model), restore(model), restore(model)) == (0, count, 0)
    assert [type(module) for module in model.modules()] == classes
    again = dict(tensors(model(**tiny_inputs(name))))
    torch.testing.assert_close(again, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_copies_and_pickles_are_accelerated(name):
    model, inputs = tiny_model(name), tiny_inputs(name)
    count = accelerate(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ]
    want = dict(tensors(model(**inputs)))
    for other in copies:
        torch.testing.assert_close(dict(tensors(other(**inputs))), want, rtol=0, atol=0)
        assert restore(other) == count
    # Which leaves the model alone.
    assert restore(model) == count


def layer_and_inputs(name):
    """One accelerated layer of a model, and what it gets."""
    model, calls = tiny_model(name), []
    accelerate(model)
    layer = next(module for module in model.modules() if isinstance(module, Accelerated))
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model(**tiny_inputs(name))
    hook.remove()
    return layer, *calls[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_layers_are_compiled_in_one_piece(name):
    torch.compiler.reset()
    layer, args, kwargs = layer_and_inputs(name)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        dict(tensors(compiled(*args, **kwargs))), dict(tensors(layer(*args, **kwargs)))
    )


class FirstOutputs(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values)[:2]


@pytest.mark.slow
def test_a_model_is_exported_with_our_operator():
    model = FirstOutputs(tiny_model("rf_detr"))
    x = tiny_inputs("rf_detr")["pixel_values"]
    want = model(x)
    count = accelerate(model)
    program = torch.export.export(model, (x,))
    operators = [str(node.target) for node in program.graph.nodes]
    assert operators.count("dyngraph.sampled_sum.default") == count
    torch.testing.assert_close(program.module()(x), want)


@pytest.mark.parametrize("name", ["d_fine", "deimv2", "rt_detr_v2"])
def test_the_nearest_pixel_is_left_alone(name):
    assert accelerate(tiny_model(name, decoder_method="discrete")) == 0


def test_another_method_set_later_is_refused():
    model = tiny_model("rt_detr_v2")
    accelerate(model)
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.method = "discrete"
    with pytest.raises(ValueError, match=r"method: expected 'default', got 'discrete'"):
        model(**tiny_inputs("rt_detr_v2"))


def test_other_modules_are_left_alone():
    class Other(nn.Module):
        def forward(self, value, sampling_locations, attention_weights):
            return value

    assert accelerate(nn.Sequential(nn.Linear(2, 2), Other())) == 0


def test_values_that_are_not_those_of_the_maps_are_refused():
    layer, _, given = layer_and_inputs("d_fine")
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, :-1]
    given["spatial_shapes"] = torch.tensor([[1, given["encoder_hidden_states"].shape[1]]])
    with pytest.raises(ValueError, match="value: expected a row for each of the"):
        layer(**given)
