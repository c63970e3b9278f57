import pytest
import torch

from dyngraph.data.voc_palette import voc_palette

# aeroplane .. tvmonitor, as the development kit of VOC 2012 paints them.
PUBLISHED = [
    [128, 0, 0],
    [0, 128, 0],
    [128, 128, 0],
    [0, 0, 128],
    [128, 0, 128],
    [0, 128, 128],
    [128, 128, 128],
    [64, 0, 0],
    [192, 0, 0],
    [64, 128, 0],
    [192, 128, 0],
    [64, 0, 128],
    [192, 0, 128],
    [64, 128, 128],
    [192, 128, 128],
    [0, 64, 0],
    [128, 64, 0],
    [0, 192, 0],
    [128, 192, 0],
    [0, 64, 128],
]


def test_the_colours_are_the_published_ones():
    assert voc_palette(20).tolist() == PUBLISHED
    # The void of VOC's borders.
    assert voc_palette(255)[-1].tolist() == [224, 224, 192]


@pytest.mark.parametrize("num_classes", [0, 1, 59, 150, 255])
def test_no_two_classes_have_one_colour(num_classes):
    palette = voc_palette(num_classes)
    assert palette.dtype == torch.uint8
    assert palette.shape == (num_classes, 3)
    assert len({tuple(colour) for colour in palette.tolist()} | {(0, 0, 0)}) == num_classes + 1
