import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.data.one_based_labels import encode_one_based


@given(num_classes=st.integers(1, 254), data=st.data())
def test_each_value_is_its_class_plus_one_and_zero_is_ignored(num_classes, data):
    values = data.draw(st.lists(st.integers(0, num_classes)))
    classes = encode_one_based(torch.tensor(values, dtype=torch.uint8), num_classes)
    assert classes.dtype == torch.uint8
    assert classes.tolist() == [255 if value == 0 else value - 1 for value in values]


@given(num_classes=st.integers(1, 254), data=st.data())
def test_a_higher_value_is_named(num_classes, data):
    unknown = data.draw(st.integers(num_classes + 1, 255))
    values = torch.tensor([[0, num_classes], [unknown, 1]], dtype=torch.uint8)
    expected = rf"^values: expected 0\.\.{num_classes}, got {unknown}$"
    with pytest.raises(ValueError, match=expected):
        encode_one_based(values, num_classes)
