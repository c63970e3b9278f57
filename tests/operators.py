"""Every function of dyngraph.ops by name: its inputs, its outputs and its gradients."""

import reference
import torch

from dyngraph import Neighborhood, ops

#: Each function with the inputs it differentiates, as `run` passes them.
FUNCTIONS = {
    "interpolate": ["key"],
    "scatter_interpolate": ["values"],
    "sampled_score": ["query", "key"],
    "sampled_sum": ["weight", "value"],
    "sampled_attention": ["query", "key", "value", "bias"],
    "attention of shared keys": ["query", "key", "bias"],
    "attention without bias": ["query", "key", "value"],
    "sampled_convolution": ["key", "filters"],
}
SCALE = 0.7


def make_inputs(sender, receiver, num_samples, channels=4, value_channels=2, groups=2, **kwargs):
    n, m = receiver.num_nodes, sender.num_nodes
    shapes = {
        "query": (n, channels),
        "key": (m, channels),
        "value": (m, value_channels),
        "values": (n, num_samples, channels),
        "weight": (n, groups, num_samples),
        "bias": (n, groups, num_samples),
        "filters": (3, channels, num_samples),
    }
    return {name: torch.randn(shape, **kwargs) for name, shape in shapes.items()}


def run(function, t, near, groups, backend):
    """The outputs of a function, from the library or from the dense reference (backend None)."""
    if backend is None and near.num_groups is not None:
        return run_each_group(function, t, near)
    library, options = (reference, {}) if backend is None else (ops, {"backend": backend})
    if function == "interpolate":
        arguments = (t["key"], near)
    elif function == "scatter_interpolate":
        arguments = (t["values"], near)
    elif function == "sampled_score":
        arguments = (t["query"], t["key"], near, groups)
    elif function == "sampled_sum":
        arguments = (t["weight"], t["value"], near)
    elif function == "sampled_convolution":
        arguments = (t["key"], t["filters"], near)
    else:
        value = t["key"] if "shared" in function else t["value"]
        bias = None if "without" in function else t["bias"]
        arguments = (t["query"], t["key"], value, near, groups)
        function = "sampled_attention"
        if backend is not None:
            options["return_weights"] = True
        options |= {"scale": SCALE, "bias": bias}
    out = getattr(library, function)(*arguments, **options)
    return out if isinstance(out, tuple) else (out,)


def run_each_group(function, t, near):
    """The reference where groups have samples of their own: each alone, side by side."""
    groups = []
    for g in range(near.num_groups):
        own = Neighborhood(
            near.grid, near.pos[:, g], padding_mode=near.padding_mode, receiver=near.receiver
        )
        parts = {name: x.chunk(near.num_groups, dim=1)[g] for name, x in t.items()}
        parts["values"] = t["values"][:, g]
        groups.append(run(function, parts, own, 1, None))
    join = torch.stack if function == "interpolate" else torch.cat
    return tuple(join(outputs, dim=1) for outputs in zip(*groups, strict=True))


def run_with_gradients(function, t, near, groups, backend, upstream=None):
    """Outputs, and the gradients of a random weighting of them for all inputs and positions.

    Of the weighting in the dtype of the outputs, or rounded to ``upstream``.
    """
    leaves = {name: t[name].detach().requires_grad_() for name in FUNCTIONS[function]}
    pos = near.pos.detach().requires_grad_()
    near = Neighborhood(near.grid, pos, padding_mode=near.padding_mode, receiver=near.receiver)
    outputs = run(function, {**t, **leaves}, near, groups, backend)
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros(())
    for out in outputs:
        weighting = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = loss + (out * weighting.to(upstream or out.dtype).to(out.dtype)).sum()
    return outputs, torch.autograd.grad(loss, [*leaves.values(), pos])
