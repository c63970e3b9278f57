import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.train import ignore_easy_pixels, segmentation_loss


@st.composite
def batches(draw):
    size = [draw(st.integers(1, n)) for n in (2, 4, 4)]
    classes = draw(st.integers(1, 5))
    label = torch.randint(classes, size)
    label[torch.rand(size) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    return 3 * torch.randn(size[0], classes, *size[1:]), label


def hard_pixels(scores, label, threshold, min_kept):
    """Pixel by pixel, the hardest first."""
    probabilities = scores.softmax(dim=1)
    pixels = sorted(
        (float(probabilities[b, label[b, y, x], y, x]), b, y, x)
        for b, y, x in (label != 255).nonzero().tolist()
    )
    hard = torch.full_like(label, 255)
    for rank, (probability, b, y, x) in enumerate(pixels):
        if probability <= threshold or rank < min_kept:
            hard[b, y, x] = label[b, y, x]
    return hard


@given(batches(), st.sampled_from([0.1, 0.7, 0.99]), st.integers(0, 40))
def test_hard_pixels(batch, threshold, min_kept):
    scores, label = batch
    got = ignore_easy_pixels(scores, label, threshold, min_kept)
    # With one class all pixels tie.
    kept = min_kept if scores.shape[1] > 1 else 40 * (min_kept > 0)
    assert torch.equal(got, hard_pixels(scores, label, threshold, kept))


def test_all_pixels_are_cross_entropy():
    scores, label = torch.randn(2, 4, 3, 5), torch.randint(4, (2, 3, 5))
    label[0, 0] = 255
    want = F.cross_entropy(scores, label, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(scores, label), want)


@pytest.mark.parametrize("value", [255, 0])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_finite_with_gradients(num_classes, value):
    """Where all pixels are ignored, where all have one class, and where there is only one."""
    scores = torch.randn(1, num_classes, 4, 4, requires_grad=True)
    label = torch.full((1, 4, 4), value)
    for labels in (label, ignore_easy_pixels(scores, label, 0.7, 5)):
        loss = segmentation_loss(scores, labels)
        (grad,) = torch.autograd.grad(loss, scores)
        assert loss.isfinite()
        assert grad.isfinite().all()
        if value == 255:
            assert loss == 0
            assert not grad.any()


def test_half_types():
    scores, label = torch.randn(1, 3, 4, 4).bfloat16(), torch.randint(3, (1, 4, 4))
    assert segmentation_loss(scores, label).dtype == torch.float32
    got = ignore_easy_pixels(scores, label, 0.7, 2)
    assert torch.equal(got, ignore_easy_pixels(scores.float(), label, 0.7, 2))
