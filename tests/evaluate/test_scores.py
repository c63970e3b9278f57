import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.evaluate import class_iou, mean_iou, pixel_accuracy

NUM_CLASSES = 4
PIXELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def confusion_of(pixels):
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.long)
    for label, prediction in pixels:
        confusion[label, prediction] += 1
    return confusion


def iou_by_hand(pixels, c):
    union = sum(label == c or prediction == c for label, prediction in pixels)
    return sum(label == prediction == c for label, prediction in pixels) / union if union else None


@given(PIXELS)
def test_scores_equal_those_counted_pixel_by_pixel(pixels):
    confusion = confusion_of(pixels)
    iou = class_iou(confusion)
    expected = [iou_by_hand(pixels, c) for c in range(NUM_CLASSES)]
    assert iou.dtype == torch.float64
    assert [None if math.isnan(value) else value for value in iou.tolist()] == expected
    found = [value for value in expected if value is not None]
    assert mean_iou(confusion) == pytest.approx(sum(found) / len(found), abs=1e-15)
    hits = sum(label == prediction for label, prediction in pixels)
    assert pixel_accuracy(confusion) == pytest.approx(hits / len(pixels), abs=1e-15)


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = confusion_of([(0, 0), (0, 1)])
    assert class_iou(confusion)[:2].tolist() == [0.5, 0.0]
    assert class_iou(confusion)[2:].isnan().all()
    assert mean_iou(confusion) == 0.25


def test_the_mean_over_some_classes():
    confusion = confusion_of([(0, 0), (0, 1), (2, 2)])
    assert mean_iou(confusion, [0, 2]) == 0.75
    assert mean_iou(confusion, [2, 3]) == 1.0
    assert math.isnan(mean_iou(confusion, [3]))


def test_no_pixels():
    confusion = confusion_of([])
    assert class_iou(confusion).isnan().all()
    assert math.isnan(mean_iou(confusion))
    assert math.isnan(pixel_accuracy(confusion))


def test_large_counts_are_exact():
    # More pixels than float32 can count.
    confusion = torch.tensor([[2**25 + 1, 0], [0, 1]])
    assert pixel_accuracy(confusion) == 1.0
    assert class_iou(torch.tensor([[2**25 + 1, 1], [0, 0]]))[0] == (2**25 + 1) / (2**25 + 2)
