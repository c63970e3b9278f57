"""What all layers of a model listen to."""

import pytest
import torch
from tiny_transformers import tiny_inputs, tiny_model
from torch import nn
from torch.nn.functional import grid_sample
from torchvision.ops import DeformConv2d

from dyngraph import Grid, Neighborhood
from dyngraph.integrations import transformers
from dyngraph.models import SmallTrunk, mask_rcnn, segmenter
from dyngraph.nn import (
    CrissCrossConv,
    DeformableAttentionConv,
    DGMN2Conv,
    DGMNConv,
    MultiScaleDeformableAttention,
    NonLocalConv,
    RepGraphConv,
)
from dyngraph.samplers import Sampler
from dyngraph.viz import capture_input, nonlocal_affinities, recorded_layer
from dyngraph.viz.recorded_layer import weight_histogram
from dyngraph.viz.recorder import record

KINDS = ["rt_detr", "d_fine", "rt_detr_v2"]


class OnGrid(nn.Module):
    """A layer on the nodes of an image of few pixels."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, image):
        grid = Grid.of(image)
        return self.conv(grid.flatten(image), grid)


def recorded(model, image):
    recording = record(model, lambda: model(image))
    assert recording.left_out == {}
    return recording.layers


LAYERS = {
    "RepGraph": RepGraphConv(8, 6, num_samples=5, groups=2),
    "criss-cross": CrissCrossConv(8),
    "DGMN2": DGMN2Conv(8, heads=2, map_size=(4, 5)),
    "deformable attention": DeformableAttentionConv(8, heads=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_samples_and_weights_are_the_layers_own(name):
    conv = LAYERS[name]
    for parameter in conv.parameters():
        nn.init.normal_(parameter, std=0.5)
    image = torch.randn(1, 8, 4, 5)
    grid = Grid.of(image)
    (layer,) = recorded(OnGrid(conv), image)
    _, near, weight = conv.sample(grid.flatten(image), grid)
    assert (layer.name, layer.kind) == ("conv", type(conv).__name__)
    assert layer.receivers == layer.senders == ((4, 5),)
    assert torch.equal(layer.pos, near.pos_of_groups)
    assert torch.equal(layer.weights["attention"], weight)
    assert torch.equal(layer.histograms["attention"], weight_histogram(weight))
    torch.testing.assert_close(layer.places * torch.tensor([4, 5]) - 0.5, grid.pos)


def test_samples_beyond_a_border_that_repeats_are_on_it():
    class Beyond(Sampler):
        def forward(self, x, grid):
            pos = grid.pos.unsqueeze(1) + torch.tensor([[-2.5, 0.0], [0.0, 3.25]])
            return Neighborhood(grid, pos, padding_mode="border")

    conv = RepGraphConv(8, 8, sampler=Beyond(num_samples=2, num_axes=2))
    (layer,) = recorded(OnGrid(conv), torch.randn(1, 8, 4, 5))
    rows, columns = Grid([[4, 5]]).pos.unbind(1)
    assert torch.equal(layer.pos[:, 0, 0], torch.stack([(rows - 2.5).clamp(min=0), columns], 1))
    assert torch.equal(layer.pos[:, 0, 1], torch.stack([rows, (columns + 3.25).clamp(max=4)], 1))


def test_positions_of_a_pyramid():
    conv = DeformableAttentionConv(8, heads=2, num_levels=2)
    pyramid = Grid([[4, 6], [2, 3]])
    x = torch.randn(30, 8)
    nn.init.normal_(conv.sampling_offsets.weight)
    model = nn.ModuleList([conv])
    (layer,) = record(model, lambda: conv(x, pyramid)).layers
    _, near, weight = conv.sample(x, pyramid)
    assert layer.receivers == layer.senders == ((4, 6), (2, 3))
    assert [(s.num_samples, s.level) for s in layer.sets] == [(4, 0), (4, 1)]
    assert torch.equal(layer.pos, near.pos)
    assert torch.equal(layer.weights["attention"], weight)
    # Seven queries, where they are told to be.
    places = torch.rand(7, 2)
    queries = {"receiver": Grid([[7]]), "reference": places}
    (layer,) = record(model, lambda: conv((x, x[:7]), pyramid, **queries)).layers
    assert layer.receivers == ()
    assert torch.equal(layer.places, places)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_filters_and_affinities_of_every_rate(num_steps):
    conv = DGMNConv(8, rates=(1, 3), groups=2, num_steps=num_steps)
    for parameter in conv.parameters():
        nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 8, 4, 5)
    grid = Grid.of(image)
    x = grid.flatten(image)
    layers = recorded(OnGrid(conv), image)
    names = ["conv"] if num_steps == 1 else ["conv, step 1", "conv, step 2"]
    assert [layer.name for layer in layers] == names
    _, near, product = conv.sample(x, grid)
    pos, product = near.pos.chunk(num_steps, dim=1), product.chunk(num_steps, dim=2)
    for step, layer in enumerate(layers):
        assert [s.name for s in layer.sets] == ["rate 1", "rate 3"]
        assert torch.equal(layer.pos[:, 0], pos[step])
        filters, affinities = layer.weights["filters"], layer.weights["affinities"]
        assert (filters.shape, affinities.shape) == ((20, 2, 18), (20, 1, 18))
        torch.testing.assert_close(affinities.unflatten(2, (2, 9)).sum(3), torch.ones(20, 1, 2))
        torch.testing.assert_close(filters * affinities, product[step])


@pytest.mark.parametrize(
    ("options", "kinds"),
    [({"filters": False}, {"affinities"}), ({"affinity": False}, {"filters"})],
)
def test_what_dgmn_does_not_predict_is_not_there(options, kinds):
    (layer,) = recorded(OnGrid(DGMNConv(8, rates=(1,), **options)), torch.randn(1, 8, 3, 3))
    assert set(layer.weights) == kinds


def test_all_pairs_of_nonlocal():
    model = segmenter(SmallTrunk(8), "nonlocal", num_classes=5, head_channels=8)
    image = torch.randn(1, 3, 16, 24)
    (layer,) = recorded(model, image)
    want = nonlocal_affinities(model, image)
    torch.testing.assert_close(layer.weights["attention"][:, 0], want)
    assert torch.equal(layer.pos[3, 0], Grid([[4, 6]]).pos)
    assert (layer.num_samples, layer.share) == (24, 1.0)


def test_the_strongest_of_too_many(monkeypatch):
    monkeypatch.setattr(recorded_layer, "LEAST_SAMPLES", 3)
    monkeypatch.setattr(recorded_layer, "MOST_SAMPLES", 72)
    monkeypatch.setattr("dyngraph.viz.recorder._CHUNK", 50)
    conv = NonLocalConv(8, 8)
    nn.init.normal_(conv.lin_query.weight)
    image = torch.randn(1, 8, 4, 6)
    (layer,) = recorded(OnGrid(conv), image)
    whole = nonlocal_affinities(OnGrid(conv), image)
    want = whole.topk(3, dim=1)
    torch.testing.assert_close(layer.weights["attention"][:, 0], want.values)
    assert torch.equal(layer.pos[:, 0], Grid([[4, 6]]).pos[want.indices])
    assert layer.num_samples == 24
    assert layer.share == pytest.approx(float(want.values.sum() / 24))
    assert torch.equal(layer.histograms["attention"], weight_histogram(whole))
    (layer,) = recorded(OnGrid(CrissCrossConv(8)), image)
    assert (layer.pos.shape[2], layer.sets[0].num_samples, layer.num_samples) == (3, 3, 9)


def test_bins_of_weights():
    weight = torch.tensor([0.0, 1e-9, 2e-6, 0.11, 0.99, -0.99, 100.0, float("nan")])
    counts = weight_histogram(weight)
    # Fifths of decades from 1e-6.
    assert {int(i): int(counts[i]) for i in counts.nonzero()} == {0: 2, 1: 1, 25: 1, 29: 2, 34: 1}


class Deformable(nn.Module):
    def __init__(self, groups, modulated):
        super().__init__()
        self.offset = nn.Conv2d(4, 18 * groups, 3, stride=2, padding=1)
        self.mask = nn.Conv2d(4, 9 * groups, 3, stride=2, padding=1) if modulated else None
        self.layer = DeformConv2d(4, 3, 3, stride=2, padding=1, bias=False)

    def forward(self, x):
        mask = None if self.mask is None else self.mask(x).sigmoid()
        return self.layer(x, self.offset(x), mask)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_is_made_of_its_samples(groups, modulated):
    model, x = Deformable(groups, modulated), torch.randn(1, 4, 6, 8)
    (layer,) = recorded(model, x)
    assert (layer.receivers, layer.senders) == (((3, 4),), ((6, 8),))
    ((kind, weight),) = layer.weights.items()
    assert kind == ("mask" if modulated else "equal weights")
    samples = []
    for group, part in enumerate(x.chunk(groups, dim=1)):
        place = 2 * (layer.pos[:, group] + 0.5) / torch.tensor([6.0, 8.0]) - 1
        value = grid_sample(part, place.flip(-1).unsqueeze(0), align_corners=False)[0]
        samples.append(value * weight[:, group] if modulated else value)
    out = torch.einsum("cnk,ock->on", torch.cat(samples), model.layer.weight.flatten(2))
    torch.testing.assert_close(out.view(1, 3, 3, 4), model(x), rtol=1e-4, atol=1e-5)


def test_deformable_convolutions_of_detectors():
    model = mask_rcnn(
        "resnet18", context="deformable", context_at="c5", num_classes=2, min_size=32, max_size=64
    )
    images = [torch.rand(3, 30, 40)]
    recording = record(model, lambda: model(images))
    names = [layer.name for layer in recording.layers]
    assert names == [f"backbone.body.layer4.{b}.conv{c}" for b in (0, 1) for c in (1, 2)]
    # They start with a mask of 1.
    assert all((layer.weights["mask"] == 1).all() for layer in recording.layers)
    # 32 rows and 42 columns, padded to 64.
    assert recording.cover == (1, 64 / 42)


def test_queries_on_several_maps():
    attention = MultiScaleDeformableAttention(8, num_levels=2, heads=2, num_points=3)
    nn.init.normal_(attention.sampling_offsets.weight)
    nn.init.normal_(attention.attention_weights.weight)
    query, points, shapes = torch.randn(1, 7, 8), torch.rand(1, 7, 2, 2), [(4, 5), (2, 3)]
    value = torch.randn(1, 26, 8)
    (layer,) = record(attention, lambda: attention(query, points, value, shapes)).layers
    locations, weight = attention.sample(query, points, shapes)
    sizes = torch.tensor(shapes).view(2, 1, 2)
    want = (locations[0].flip(-1) * sizes - 0.5).flatten(2, 3)
    torch.testing.assert_close(layer.pos, want)
    torch.testing.assert_close(layer.weights["attention"], weight[0].flatten(2))
    assert layer.receivers == ()
    middle = (locations[0].flip(-1) * weight[0].unsqueeze(-1)).sum(dim=(1, 2, 3)) / 2
    torch.testing.assert_close(layer.places, middle)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_models_of_transformers(name, accelerated):
    model = tiny_model(name).float()
    inputs = {key: value[:1].float() for key, value in tiny_inputs(name).items()}
    if accelerated:
        transformers.accelerate(model)
    classes = [type(module) for module in model.modules()]
    with torch.no_grad():
        want = model(**inputs).logits
    recording = record(model, lambda: model(**inputs))
    torch.testing.assert_close(recording.output.logits, want, rtol=1e-4, atol=1e-4)
    assert [type(module) for module in model.modules()] == classes
    assert len(recording.layers) == 2
    for layer in recording.layers:
        assert layer.receivers == ()
        assert len(layer.places) == 6
        assert len(layer.sets) == len(layer.senders)
        torch.testing.assert_close(layer.weights["attention"].sum(2), torch.ones(6, 2))


def test_positions_in_a_model_of_transformers():
    model = tiny_model("rt_detr").float()
    inputs = {key: value[:1].float() for key, value in tiny_inputs("rt_detr").items()}
    calls = []
    function = model.model.decoder.layers[0].encoder_attn.attn
    hook = function.register_forward_pre_hook(lambda _, args: calls.append(args))
    recording = record(model, lambda: model(**inputs))
    hook.remove()
    _, _, shapes, _, locations, weight, _ = calls[0]
    layer = recording.layers[0]
    assert layer.senders == tuple(tuple(shape) for shape in shapes)
    sizes = torch.tensor(shapes).view(-1, 1, 2)
    want = (locations[0].flip(-1) * sizes - 0.5).flatten(2, 3)
    torch.testing.assert_close(layer.pos, want)
    torch.testing.assert_close(layer.weights["attention"], weight[0].flatten(2))


def test_a_layer_that_is_called_twice():
    class Twice(OnGrid):
        def forward(self, image):
            return super().forward(image), super().forward(image)

    layers = recorded(Twice(RepGraphConv(8, 8)), torch.randn(1, 8, 3, 3))
    assert [layer.name for layer in layers] == ["conv", "conv, call 2"]


def test_what_is_left_out_is_said():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = RepGraphConv(4, 4)
            self.volume = RepGraphConv(4, 4, num_axes=3)
            self.parts = RepGraphConv(4, 4)

        def forward(self, x):
            self.graph(x, torch.tensor([[0, 1], [1, 0]]))
            self.volume(x, Grid([[2, 2, 3]]))
            self.parts(x, Grid([[2, 3], [2, 3]]))

    model = Several()
    recording = record(model, lambda: model(torch.randn(12, 4)))
    assert recording.layers == ()
    assert recording.left_out == {
        "graph": "it was given a graph",
        "volume": "its maps have 3 axes",
        "parts": "it sees 2 images or parts of images",
    }


@pytest.mark.parametrize("kind", ["ours", "transformers"])
def test_a_model_that_fails_is_left_as_it_was(kind):
    if kind == "ours":
        model = segmenter(SmallTrunk(8), "dgmn", num_classes=5, head_channels=8)
        image = torch.randn(1, 4, 16, 16)
    else:
        model, image = tiny_model("rt_detr_v2").float(), torch.randn(1, 4, 32, 32)
    model.train()
    classes = [type(module) for module in model.modules()]
    with pytest.raises((RuntimeError, ValueError)):
        record(model, lambda: model(image))
    assert [type(module) for module in model.modules()] == classes
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_output_is_that_of_evaluation_mode():
    model = segmenter(SmallTrunk(8), "repgraph", num_classes=5, head_channels=8).train()
    image = torch.randn(1, 3, 16, 24)
    out = record(model, lambda: model(image)).output["out"]
    assert not out.requires_grad
    assert model.training
    torch.testing.assert_close(out, model.eval()(image)["out"])
    conv, x, grid = capture_input(model, RepGraphConv, image)
    (layer,) = recorded(model, image)
    assert torch.equal(layer.pos[:, 0], conv.sample(x, grid)[1].pos)
