import pytest
import torch

from dyngraph.ops.softmax import softmax_over_samples


@pytest.mark.parametrize("shape", [(5,), (4, 3), (6, 2, 9), (0, 2, 9), (3, 2, 1)])
def test_it_is_the_softmax_over_the_last_axis(shape):
    score = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out, expected = softmax_over_samples(score), score.softmax(dim=-1)
    torch.testing.assert_close(out, expected)
    grad = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(out, score, grad), torch.autograd.grad(expected, score, grad)
    )


def test_nan_stays_in_its_row():
    out = softmax_over_samples(torch.tensor([[0.0, torch.nan], [1.0, 1.0]]))
    assert out[0].isnan().all()
    assert out[1].tolist() == [0.5, 0.5]
