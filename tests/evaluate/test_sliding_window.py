import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dyngraph.evaluate.sliding_window import sliding_scores, window_corners


def context_model(image):
    """Scores of a pixel that depend on all the window: its position, its neighbours, its mean."""
    height, width = image.shape[-2:]
    row = torch.arange(height, dtype=image.dtype)[:, None]
    column = torch.arange(width, dtype=image.dtype)
    first = image[:, :1] * (row + 1) + image.mean(dim=(1, 2, 3), keepdim=True)
    second = image[:, 1:2].roll(1, dims=-1) - column
    return torch.cat([first, second], dim=1)


@st.composite
def cases(draw):
    size, window = (draw(st.tuples(*[st.integers(1, limit)] * 2)) for limit in (13, 15))
    stride = tuple(draw(st.integers(1, extent)) for extent in window)
    return size, window, stride


def starts_by_hand(length, window, stride):
    starts, start = [], 0
    while start + window < length:
        starts.append(start)
        start += stride
    return [*starts, length - window if length > window else 0]


def corners_by_hand(size, window, stride):
    rows, columns = (starts_by_hand(*axis) for axis in zip(size, window, stride, strict=True))
    return [(top, left) for top in rows for left in columns]


def scores_by_hand(model, image, window, stride):
    """Pixel by pixel, the mean over all windows that the pixel is in."""
    height, width = image.shape[-2:]
    corners = corners_by_hand((height, width), window, stride)
    seen = [
        model(image[..., top : top + window[0], left : left + window[1]]).double()
        for top, left in corners
    ]
    out = torch.zeros(len(image), seen[0].shape[1], height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            found = [
                scores[..., y - top, x - left]
                for (top, left), scores in zip(corners, seen, strict=True)
                if 0 <= y - top < window[0] and 0 <= x - left < window[1]
            ]
            out[..., y, x] = sum(found) / len(found)
    return out


@given(cases())
def test_scores_equal_those_averaged_pixel_by_pixel(case):
    size, window, stride = case
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    scores = sliding_scores(context_model, image, window, stride)
    assert scores.shape == (2, 2, *size)
    expected = scores_by_hand(context_model, image, window, stride)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


@given(cases())
def test_windows_are_those_placed_one_by_one(case):
    assert window_corners(*case) == corners_by_hand(*case)


def test_the_usual_windows_of_cityscapes():
    corners = window_corners((1024, 2048), (769, 769), (513, 513))
    assert corners == [(top, left) for top in (0, 255) for left in (0, 513, 1026, 1279)]


@given(cases())
def test_functions_of_a_pixel_do_not_see_the_windows(case):
    size, window, stride = case
    model = nn.Conv2d(3, 4, 1)
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        scores = sliding_scores(model, image, window, stride)
        torch.testing.assert_close(scores, model(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [(17, 23), (20, 40)])
def test_a_window_that_covers_the_image_is_the_whole_image_bit_for_bit(window):
    image = torch.randn(2, 3, 17, 23)
    model = nn.Conv2d(3, 5, 5, padding=2)
    with torch.no_grad():
        scores = sliding_scores(model, image, window, (12, 16))
        assert torch.equal(scores, model(image))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_types_are_summed_in_float32(dtype):
    image = torch.randn(1, 3, 9, 11).to(dtype)
    scores = sliding_scores(context_model, image, (5, 6), (1, 1))
    assert scores.dtype == torch.float32
    expected = scores_by_hand(context_model, image, (5, 6), (1, 1))
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-6)
    # A mean of up to 30 windows that half types hold is the exception.
    assert (scores != scores.to(dtype)).float().mean() > 0.5


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (lambda image: {"out": image}, "dict"),
        (lambda image: image[..., ::2, ::2], r"\[2, 3, 2, 2\]"),
        (lambda image: image[:1], r"\[1, 3, 4, 4\]"),
        (lambda image: image[0], r"\[3, 4, 4\]"),
    ],
    ids=["dict", "size", "batch", "axes"],
)
def test_models_that_return_something_else(result, found):
    with pytest.raises(ValueError, match=rf"^model: expected scores \[2, C, 4, 4\], got {found}$"):
        sliding_scores(result, torch.randn(2, 3, 6, 5), (4, 4), (3, 3))
