import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dyngraph.data.coco_masks import decode_mask, encode_masks, mask_codec

pytest.importorskip("pycocotools")

TRIANGLE = [1.0, 1.0, 8.0, 2.0, 4.0, 7.0]

masks = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
)


def runs(mask):
    """The lengths of runs of zeros and ones in turn, column by column."""
    lengths, value = [0], 0
    for pixel in mask.T.flatten():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


@given(masks)
def test_encodings_are_decoded(mask):
    height, width = mask.shape
    compressed = encode_masks(mask[None])[0]
    assert compressed["size"] == [height, width]
    assert isinstance(compressed["counts"], str)
    assert np.array_equal(decode_mask(compressed, height, width), mask)
    uncompressed = {"size": [height, width], "counts": runs(mask)}
    assert np.array_equal(decode_mask(uncompressed, height, width), mask)


def test_long_runs():
    mask = np.zeros((1000, 2100), dtype=np.uint8)
    mask[:, 700:1000] = 1
    mask[3, 2000] = 1
    assert np.array_equal(decode_mask(encode_masks(mask[None])[0], 1000, 2100), mask)


def test_several_masks_at_once():
    several = np.random.default_rng(0).random((3, 5, 7)) < 0.5
    for mask, encoding in zip(several, encode_masks(several), strict=True):
        assert np.array_equal(decode_mask(encoding, 5, 7), mask)
    assert encode_masks(several[:0]) == []


@given(
    st.lists(
        st.lists(st.floats(-5, 15, width=32), min_size=6, max_size=12).map(
            lambda values: values[: len(values) // 2 * 2]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_those_of_pycocotools(polygons):
    codec = mask_codec()
    expected = codec.decode(codec.merge(codec.frPyObjects(polygons, 10, 12)))
    mask = decode_mask(polygons, 10, 12)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


@given(st.text("0123456789:;<=>?@OPQRabcdeno", max_size=8))
def test_any_string_is_refused_or_means_what_it_means_to_pycocotools(counts):
    encoding = {"size": [5, 4], "counts": counts}
    try:
        mask = decode_mask(encoding, 5, 4)
    except ValueError:
        return
    assert np.array_equal(mask, mask_codec().decode(encoding))


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (None, "expected polygons or a run-length encoding"),
        ("0", "expected polygons or a run-length encoding"),
        ({"counts": [100]}, "expected polygons or a run-length encoding"),
        ([], "expected at least one polygon"),
        ([TRIANGLE[:5]], "an even number of coordinates, got 5"),
        ([TRIANGLE, TRIANGLE[:4]], "at least three points, an even number of coordinates, got 4"),
        ([[*TRIANGLE, 1.0]], "got 7"),
        (TRIANGLE, "expected polygons of at least three points, .* got 1.0"),
        ([[*TRIANGLE[:5], "7"]], "expected y in or near the image, -10..20, got '7'"),
        ([[*TRIANGLE[:5], float("nan")]], "got nan"),
        ([[*TRIANGLE[:4], float("inf"), 1]], "expected x in or near the image, .* got inf"),
        ([[*TRIANGLE[:5], 10**400]], "expected y in or near the image"),
        ([[*TRIANGLE[:5], 21]], "expected y in or near the image, -10..20, got 21"),
        ([[*TRIANGLE[:5], True]], "got True"),
        ({"size": [10, 9], "counts": [90]}, r"the image's size \[10, 10\], got \[10, 9\]"),
        ({"size": 100, "counts": [100]}, r"the image's size \[10, 10\], got 100"),
        ({"size": [10, 10], "counts": [99]}, "10 x 10 = 100 pixels, got 99"),
        ({"size": [10, 10], "counts": [60, 41]}, "pixels, got 101"),
        ({"size": [10, 10], "counts": []}, "pixels, got 0"),
        ({"size": [10, 10], "counts": [101, -1]}, "expected lengths of runs"),
        ({"size": [10, 10], "counts": [1.5, 98.5]}, "expected lengths of runs"),
        ({"size": [10, 10], "counts": [2**70]}, "expected lengths of runs"),
        ({"size": [10, 10], "counts": 100}, "expected counts as list or string, got 100"),
        ({"size": [10, 10], "counts": ""}, "expected compressed runs"),
        ({"size": [10, 10], "counts": "4"}, "100 pixels, got 4"),
        ({"size": [10, 10], "counts": "T"}, "expected compressed runs"),
        ({"size": [10, 10], "counts": "T3 "}, "expected compressed runs"),
        ({"size": [10, 10], "counts": "T3ä"}, "expected compressed runs"),
        ({"size": [10, 10], "counts": "PPPPPPPPPPPPPP1"}, "expected compressed runs"),
    ],
)
def test_broken_segmentations(segmentation, expected):
    with pytest.raises(ValueError, match=f"^segmentation: .*{expected}"):
        decode_mask(segmentation, 10, 10)
