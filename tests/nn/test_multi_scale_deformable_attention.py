import pytest
import torch
from torch import nn
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoder,
    DeformableDetrMultiscaleDeformableAttention,
)

from dyngraph.nn import MultiScaleDeformableAttention

SHAPES = [(4, 5), (2, 3), (1, 2)]
OPTIONS = {"num_levels": 3, "heads": 4, "num_points": 2}


def make():
    """A layer of transformers, and ours with its weights."""
    torch.manual_seed(0)
    config = DeformableDetrConfig(d_model=16, num_feature_levels=3)
    theirs = DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=2).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours = MultiScaleDeformableAttention(16, **OPTIONS).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_it_is_the_layer_of_transformers(coordinates, masked):
    theirs, ours = make()
    query, value = torch.randn(2, 7, 16).double(), torch.randn(2, 28, 16).double()
    points = torch.rand(2, 7, 3, coordinates).double()
    leaves = [tensor.requires_grad_() for tensor in (query, points, value)]
    padding = torch.rand(2, 28) < 0.3 if masked else None
    want, _ = theirs(
        query,
        encoder_hidden_states=value,
        attention_mask=None if padding is None else ~padding,
        reference_points=points,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=SHAPES,
    )
    out = ours(query, points, value, torch.tensor(SHAPES), key_padding_mask=padding)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(want)
    grads = [
        torch.autograd.grad(y, [*leaves, *layer.parameters()], cotangent)
        for y, layer in ((out, ours), (want, theirs))
    ]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-11)


def test_it_starts_as_in_transformers():
    config = DeformableDetrConfig(
        d_model=16, num_feature_levels=3, decoder_layers=1, decoder_attention_heads=4
    )
    theirs = DeformableDetrDecoder(config).layers[0].encoder_attn
    torch.manual_seed(0)
    ours = MultiScaleDeformableAttention(16, num_levels=3, heads=4)
    for name in ("sampling_offsets", "attention_weights"):
        torch.testing.assert_close(
            ours.get_submodule(name).state_dict(),
            theirs.get_submodule(name).state_dict(),
            # Directions are divided by their larger component in the other order.
            rtol=1e-6,
            atol=1e-6,
        )
    for name in ("value_proj", "output_proj"):
        layer = ours.get_submodule(name)
        assert not layer.bias.any()
        # Glorot's bound.
        assert 0.9 * (6 / 32) ** 0.5 < layer.weight.abs().max() <= (6 / 32) ** 0.5


def test_heads_look_in_directions_of_their_own():
    attention = MultiScaleDeformableAttention(8, num_levels=2, heads=4, num_points=3)
    offsets = attention.sampling_offsets.bias.view(4, 2, 3, 2).round().tolist()
    directions = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    for (x, y), levels in zip(directions, offsets, strict=True):
        assert levels == 2 * [[[x * k, y * k] for k in (1, 2, 3)]]


@pytest.mark.slow
def test_compiling():
    torch.compiler.reset()
    _, ours = make()
    inputs = torch.randn(1, 7, 16).double(), torch.rand(1, 7, 3, 2).double()
    value = torch.randn(1, 28, 16).double()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs, value, SHAPES), ours(*inputs, value, SHAPES))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"query": torch.ones(2, 7, 15)}, "query: expected .* 16 channels"),
        ({"value": torch.ones(28, 16)}, "value: expected shape"),
        ({"reference_points": torch.ones(2, 7, 3, 3)}, r"reference_points: .* \[2, 7, 3, 4\]"),
        ({"reference_points": torch.ones(2, 7, 2, 2)}, "reference_points: "),
        ({"value_spatial_shapes": SHAPES[:2]}, "value_spatial_shapes: expected 3 levels, got 2"),
        ({"key_padding_mask": torch.ones(2, 28)}, "key_padding_mask: expected booleans"),
        ({"key_padding_mask": torch.ones(2, 27) > 0}, r"key_padding_mask: .* \[2, 28\]"),
    ],
)
def test_errors_name_the_argument(changes, match):
    attention = MultiScaleDeformableAttention(16, **OPTIONS)
    given = {
        "query": torch.ones(2, 7, 16),
        "reference_points": torch.ones(2, 7, 3, 2),
        "value": torch.ones(2, 28, 16),
        "value_spatial_shapes": SHAPES,
    }
    assert attention(**given).shape == (2, 7, 16)
    with pytest.raises(ValueError, match=f"^{match}"):
        attention(**{**given, **changes})


@pytest.mark.parametrize("options", [{"heads": 3}, {"num_levels": 0}, {"num_points": 0}])
def test_wrong_settings(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        MultiScaleDeformableAttention(16, **options)
