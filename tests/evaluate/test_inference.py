import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from tqdm import tqdm

import dyngraph.evaluate.inference
from dyngraph.evaluate import Inference
from dyngraph.evaluate.sliding_window import sliding_scores, window_corners


def conv_model(channels=4):
    return nn.Conv2d(3, channels, 3, padding=1).double()


def bilinear_by_hand(maps, size):
    """Pixel centres lie evenly; outside the outermost ones the map goes on unchanged."""
    for axis, length in zip((-2, -1), size, strict=True):
        old_length = maps.shape[axis]
        rows = []
        for i in range(length):
            position = min(max((i + 0.5) * old_length / length - 0.5, 0), old_length - 1)
            low = min(int(position), old_length - 1)
            high = min(low + 1, old_length - 1)
            share = position - low
            rows.append(maps.select(axis, low) * (1 - share) + maps.select(axis, high) * share)
        maps = torch.stack(rows, dim=axis)
    return maps


def probabilities_by_hand(model, image, window, stride, scales, flips):
    views = []
    for scale in scales:
        size = [max(1, round(scale * length)) for length in image.shape[-2:]]
        for flip in flips:
            view = bilinear_by_hand(image.flip(-1) if flip else image, size)
            scores = model(view) if window is None else sliding_scores(model, view, window, stride)
            exponentials = bilinear_by_hand(scores, image.shape[-2:]).exp()
            probabilities = exponentials / exponentials.sum(dim=1, keepdim=True)
            views.append(probabilities.flip(-1) if flip else probabilities)
    return torch.stack(views).mean(dim=0)


@pytest.mark.parametrize("window", [None, (7, 5)], ids=["whole", "windows"])
@pytest.mark.parametrize("flip", [False, True], ids=["", "flip"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.75), [0.01, 2]], ids=str)
@torch.no_grad()
def test_probabilities_equal_those_made_by_hand(window, flip, scales):
    model = conv_model()
    image = torch.randn(2, 3, 11, 9, dtype=torch.float64)
    probabilities = Inference(window, scales=scales, flip=flip)(model, image)
    # Two thirds of 7 x 5, rounded up.
    flips = (False, True) if flip else (False,)
    expected = probabilities_by_hand(model, image, window, (5, 4), scales, flips)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 11, 9).double())


@pytest.mark.parametrize("window", [None, (16, 24)], ids=["whole", "window"])
@torch.no_grad()
def test_by_default_the_image_is_seen_as_it_is(window):
    model = conv_model().float()
    image = torch.randn(2, 3, 16, 24)
    probabilities = Inference(window)(model, image)
    assert torch.equal(probabilities, model(image).softmax(dim=1))
    assert torch.equal(probabilities.argmax(dim=1), model(image).argmax(dim=1))


def test_the_stride_is_taken():
    model = conv_model()
    image = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    expected = sliding_scores(model, image, (6, 5), (2, 5)).softmax(dim=1)
    assert torch.equal(Inference((6, 5), (2, 5))(model, image), expected)


def test_images_of_a_batch_do_not_see_each_other():
    inference = Inference((8, 8), scales=(0.75, 1.0), flip=True)
    model = conv_model()
    images = torch.randn(2, 3, 13, 10, dtype=torch.float64)
    alone = torch.cat([inference(model, image[None]) for image in images])
    torch.testing.assert_close(inference(model, images), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_give_float32(dtype):
    model = nn.Conv2d(3, 4, 1)
    image = torch.randn(1, 3, 8, 8)
    inference = Inference((5, 5), scales=(1.0, 1.5), flip=True)
    probabilities = inference(lambda window: model(window).to(dtype), image)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, inference(model, image), rtol=0, atol=2e-2)


def test_the_image_stays_as_it_was_and_nothing_is_kept_for_gradients():
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    before = image.clone()
    probabilities = Inference((4, 4), scales=(1.0, 2.0), flip=True)(conv_model(), image)
    assert not probabilities.requires_grad
    assert torch.equal(image, before)


def test_the_progress_bar_counts_forward_passes_and_goes_away(monkeypatch, capsys):
    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(dyngraph.evaluate.inference, "tqdm", Bar)
    calls = []

    def model(image):
        calls.append(image.shape)
        return image

    inference = Inference((8, 8), scales=(0.5, 1.0), flip=True)
    image = torch.randn(1, 3, 20, 9)
    inference(model, image)
    assert capsys.readouterr().err == ""
    calls.clear()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    inference(model, image, progress=True)
    passes = 2 * sum(len(window_corners(size, (8, 8), (6, 6))) for size in [(10, 4), (20, 9)])
    assert len(calls) == passes == bars[-1].n == bars[-1].total
    assert set(calls) == {(1, 3, 8, 4), (1, 3, 8, 8)}
    shown = capsys.readouterr().err
    assert f"/{passes}" in shown
    # The last thing that is written is an empty line.
    assert shown.endswith("\r")
    assert not shown.rstrip("\r").rpartition("\r")[2].strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 769}, r"^window: expected a positive height and width, got 769"),
        ({"window": (7,)}, r"^window: expected a positive height and width, got \(7,\)"),
        ({"window": (7, 0)}, r"^window: expected a positive height and width, got \(7, 0\)"),
        ({"window": (7, 2.5)}, r"^window: expected a positive height and width"),
        ({"window": (7, 7), "stride": (0, 7)}, r"^stride: expected a positive height and width"),
        ({"window": (7, 5), "stride": (7, 6)}, r"^stride: expected at most the window \(7, 5\),"),
        ({"stride": (7, 6)}, r"^stride: expected None without a window, got \(7, 6\)"),
        ({"scales": ()}, r"^scales: expected positive numbers, got \(\)"),
        ({"scales": 1.0}, r"^scales: expected positive numbers, got 1.0"),
        ({"scales": (1.0, 0)}, r"^scales: expected positive numbers, got \(1.0, 0\)"),
        ({"scales": (float("nan"),)}, r"^scales: expected positive numbers, got \(nan,\)"),
        ({"scales": (float("inf"),)}, r"^scales: expected positive numbers, got \(inf,\)"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 0, 8)], ids=str)
def test_images_that_are_none(shape):
    with pytest.raises(ValueError, match=r"^image: expected shape \[B, 3, H, W\], got"):
        Inference()(conv_model(), torch.randn(shape))


LARGE_IMAGE = """
import re
from pathlib import Path

import torch

from dyngraph.evaluate import Inference
from dyngraph.models import segmenter

torch.manual_seed(0)
model = segmenter("small_trunk", context="bottleneck_repgraph", head_channels=8).eval()
inference = Inference(window=(769, 769), scales=(0.75, 1.25))
probabilities = inference(lambda image: model(image)["out"], torch.randn(1, 3, 1024, 2048))
assert probabilities.shape == (1, 19, 1024, 2048)
assert probabilities.isfinite().all()
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_large_image_takes_little_memory():
    # Not ru_maxrss, which starts with the peak of the process that started this one.
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LARGE_IMAGE], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    kibibytes = int(result.stdout)
    assert kibibytes < 2 * 10**6
