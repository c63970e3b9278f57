"""Recorded layers in few bytes."""

import base64
import zlib

import numpy as np
import pytest
import torch

from dyngraph.viz.packing import (
    NOT_FINITE,
    choose_every,
    pack_classes,
    pack_integers,
    pack_layer,
    pack_weights,
)
from dyngraph.viz.recorded_layer import RecordedLayer, SampleSet, map_places


def unpack(packed):
    """The integers, as the page reads them: planes of bytes, then differences along an axis."""
    dtype = np.dtype(packed["type"])
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    planes = planes.reshape(dtype.itemsize, -1)
    values = sum(plane.astype(np.uint32) << (8 * i) for i, plane in enumerate(planes))
    values = values.reshape(packed["shape"]).cumsum(axis=-1) % 256**dtype.itemsize
    return values.astype(f"u{dtype.itemsize}").view(dtype)


def unpack_weights(packed):
    steps = 127 if packed["type"] == "int8" else 255
    share = torch.from_numpy(unpack(packed).astype(np.float32)) / steps
    return (packed["scale"] * share * share.abs()).permute(2, 0, 1)


def unpack_positions(packed):
    """``[N, H, K, 2]``, from what a page has of a layer on maps."""
    places = []
    for full, stored in zip(packed["maps"], packed["stored"], strict=True):
        starts = [min(packed["every"] // 2, n - 1) for n in full]
        axes = [
            (start + packed["every"] * torch.arange(n) + 0.5) / length
            for start, n, length in zip(starts, stored, full, strict=True)
        ]
        places.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1))
    sizes = [packed["senders"][s["level"]] for s in packed["sets"] for _ in range(s["num_samples"])]
    place = torch.cat(places).unsqueeze(1) * torch.tensor(sizes) - 0.5
    offset = torch.from_numpy(unpack(packed["pos"]).astype(np.float32)).permute(3, 0, 1, 2)
    return place.unsqueeze(1) + offset * packed["pos"]["step"]


def make_layer(shape=(5, 7), samples=4, heads=2, reach=3.0, levels=None):
    senders = (shape,) if levels is None else levels
    sets = tuple(SampleSet(f"map {i}", samples, i) for i in range(len(senders)))
    places = map_places((shape,), torch.device("cpu"))
    sizes = torch.tensor([s for s in senders for _ in range(samples)])
    pos = (places.unsqueeze(1) * sizes - 0.5).unsqueeze(1)
    pos = pos + reach * (2 * torch.rand(len(places), heads, samples * len(senders), 2) - 1)
    weight = torch.rand(len(places), heads, pos.shape[2]).softmax(dim=2)
    return RecordedLayer(
        "a.b", "Layer", (shape,), places, senders, sets, pos, {"attention": weight}, samples
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_integers(dtype):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, (3, 4, 5), endpoint=True)
    values = values.astype(dtype)
    packed = pack_integers(values)
    assert np.array_equal(unpack(packed), values)
    assert unpack(packed).dtype == dtype
    assert unpack(pack_integers(values[:, :, :0])).size == 0


@pytest.mark.parametrize("levels", [None, ((5, 7), (3, 4))])
def test_positions_are_off_by_half_a_step(levels):
    layer = make_layer(levels=levels)
    packed = pack_layer(layer, 1)
    assert packed["pos"]["step"] == 1 / 64
    error = (unpack_positions(packed) - layer.pos).abs()
    assert 0 < error.max() <= 1 / 128 + 1e-5


def test_the_step_grows_with_the_distance():
    layer = make_layer(reach=1500.0)
    packed = pack_layer(layer, 1)
    assert packed["pos"]["step"] == 1 / 16
    assert (unpack_positions(packed) - layer.pos).abs().max() <= 1 / 32 + 1e-3


def test_positions_that_are_not_finite_or_far_away():
    layer = make_layer()
    layer.pos[3, 1, 2, 0] = float("nan")
    layer.pos[4, 0, 0, 1] = 1e9
    packed = pack_layer(layer, 1)
    assert packed["pos"]["step"] == 1
    levels = unpack(packed["pos"])
    assert (levels == NOT_FINITE).sum() == 1
    assert levels[1, 2, 0, 3] == NOT_FINITE
    assert levels[0, 0, 1, 4] == 32767


@pytest.mark.parametrize("signed", [False, True])
def test_weights_are_as_close_as_is_said(signed):
    weight = torch.rand(50, 3, 4) ** 4 * 0.3
    if signed:
        weight = weight * (torch.rand_like(weight) - 0.5).sign()
    packed = pack_weights(weight)
    steps = 127 if signed else 255
    assert packed["scale"] == pytest.approx(float(weight.abs().max()))
    error = (unpack_weights(packed) - weight).abs()
    assert 0 < error.max() <= packed["scale"] / steps
    # Half a step of the radius: finer for smaller weights.
    finer = packed["scale"] * (
        1 / steps * (weight.abs() / packed["scale"]).sqrt() + 0.25 / steps**2
    )
    assert (error <= finer + 1e-6).all()


def test_weights_that_are_not_finite_or_all_zero():
    weight = torch.tensor([[[float("nan"), 0.5, float("inf")]]])
    assert unpack_weights(pack_weights(weight)).tolist() == [[[0, 0.5, 0]]]
    assert unpack_weights(pack_weights(torch.zeros(2, 1, 3))).count_nonzero() == 0


@pytest.mark.parametrize("every", [2, 4, 16])
def test_a_layer_of_every_nth_node(every):
    layer = make_layer((9, 14))
    packed = pack_layer(layer, every)
    rows, columns = (torch.arange(min(every // 2, n - 1), n, every) for n in (9, 14))
    assert packed["stored"] == [[len(rows), len(columns)]]
    kept = (rows.unsqueeze(1) * 14 + columns).flatten()
    assert (unpack_positions(packed) - layer.pos[kept]).abs().max() <= 1 / 128 + 1e-5
    weight = layer.weights["attention"][kept]
    assert (unpack_weights(packed["weights"]["attention"]) - weight).abs().max() < 0.01


def test_queries_keep_their_places():
    layer = make_layer()
    places = torch.rand(35, 2)
    queries = RecordedLayer(**{**vars(layer), "receivers": (), "places": places})
    packed = pack_layer(queries, 1)
    assert torch.equal(torch.tensor(packed["places"]).view(-1, 2), places)
    assert packed["maps"] == packed["stored"] == []


def test_the_largest_layers_give_nodes_away():
    layers = [make_layer((40, 40)), make_layer((20, 20)), make_layer((4, 4))]
    # Two heads of four samples, of 4 bytes for the position and 1 for the weight.
    assert choose_every(layers, 40 * (1600 + 400 + 16)) == [1, 1, 1]
    assert choose_every(layers, 40 * (1600 + 400 + 15)) == [2, 1, 1]
    assert choose_every(layers, 40 * (400 + 100 + 16)) == [2, 2, 1]
    # Layers of few nodes, and queries, are kept.
    assert choose_every(layers[2:], 0) == [1]
    queries = RecordedLayer(**{**vars(layers[0]), "receivers": ()})
    assert choose_every([queries], 0) == [1]


@pytest.mark.parametrize(("largest", "kind"), [(255, "uint8"), (256, "uint16")])
def test_classes(largest, kind):
    classes = torch.randint(largest + 1, (6, 9))
    classes[0, 0] = largest
    packed = pack_classes(classes)
    assert packed["type"] == kind
    assert np.array_equal(unpack(packed), classes.numpy())
