"""Derivatives of operators that PyTorch does not compute by itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transforms_active() -> bool:
    r"""Whether a transform of :mod:`torch.func` or a level of dual numbers is active.

    An operator of :mod:`torch.library` is opaque to both: it would silently drop tangents. So the
    operators of :mod:`dyngraph.ops` then run the same formulas in standard operators.
    """
    # No public function says; these are the ones that `torch.autograd.Function` and `make_dual`
    # use.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiable_gradients(
    formula: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    wanted: list[bool],
    grad_outputs: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients of a function of ``inputs``, themselves differentiable."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that the gradient of an input that depends on another doesn't flow into the
        # other.
        views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        pairs = zip(formula(*views), grad_outputs, strict=True)
        outputs, grads = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        results = torch.autograd.grad(
            outputs,
            [view for view, need in zip(views, wanted, strict=True) if need],
            grads,
            create_graph=create_graph,
            materialize_grads=True,
        )
    remaining = iter(results)
    return [next(remaining) if need else None for need in wanted]
