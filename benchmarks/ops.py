"""The operators against alternatives, on a CPU.

    python benchmarks/ops.py

Each case runs its contenders in turns in this process, forward and forward + backward with the
gradients of all inputs, positions included. Prints median times, ratios to dyngraph's, and the most
memory held beyond the inputs. All contenders of a case are first checked to compute the same,
except for attention to all nodes and the prediction's matrix product without sampling. This
product, and the prediction with its corners given, show the limit. Each contender gets its inputs
in its own layout: channels first for PyTorch and torchvision, as is usual, and for `grid_sample`
also channels_last, where it is faster. torch-ms-deform-attn, a C++ extension for deformable
attention, takes part where it is installed. FlexAttention is compiled, and only forward: on a CPU
it has no gradient.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measure import arguments, bars, peak_memory, table, times, write
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torchvision.ops import deform_conv2d
from tqdm import tqdm
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from dyngraph import Corners, Grid, Neighborhood
from dyngraph.ops import (
    find_corners,
    multi_scale_deformable_attention,
    sampled_attention,
    sampled_convolution,
    sampled_sum,
)
from dyngraph.ops.project import project

OURS = "dyngraph"
PLAIN = "dyngraph, plain PyTorch"


class Contender(NamedTuple):
    run: Callable[..., Tensor]
    inputs: list[Tensor]
    same_function: bool = True
    has_gradient: bool = True


def grid_sample(x: Tensor, pos: Tensor, size: tuple[int, int]) -> Tensor:
    """The samples ``[C, N, K]`` of all nodes of maps ``[C, N]``, by PyTorch's interpolation."""
    height, width = size
    scale = pos.new_tensor([2 / (height - 1), 2 / (width - 1)])
    places = (pos * scale - 1).flip(-1).unsqueeze(0)
    maps = x.view(1, -1, height, width).to(pos.dtype)
    return F.grid_sample(maps, places, align_corners=True)[0].to(x.dtype)


def unfold(x: Tensor, pos: Tensor, size: tuple[int, int]) -> Tensor:
    """The samples ``[C, N, K]`` by a deformable convolution that copies, as DGMN does."""
    channels, taps = len(x), pos.shape[1]
    copies = torch.eye(taps).to(pos).view(taps, 1, 3, 3).repeat(channels, 1, 1, 1)
    maps = x.view(1, channels, *size).to(pos.dtype)
    samples = deform_conv2d(maps, offsets(pos, size), copies, padding=1)
    return samples.view(channels, taps, -1).transpose(1, 2).to(x.dtype)


def offsets(pos: Tensor, size: tuple[int, int]) -> Tensor:
    """The offsets of samples from the taps of a 3x3 convolution, for `deform_conv2d`."""
    taps = torch.cartesian_prod(*[torch.arange(-1.0, 2)] * 2).to(pos)
    offset = (pos - Grid([size], device=pos.device).pos.unsqueeze(1) - taps).view(*size, -1)
    return offset.permute(2, 0, 1).unsqueeze(0)


def channels_first(run: Callable[..., Tensor], inputs: list[Tensor]) -> Contender:
    """For runs on ``[C, N]``, the usual layout, from inputs ``[N, C]``."""
    return Contender(run, [x.t().contiguous() if x.dim() == 2 else x for x in inputs])


def channels_last(run: Callable[..., Tensor], inputs: list[Tensor]) -> Contender:
    """For runs on ``[C, N]`` that is a view of ``[N, C]``."""
    return Contender(lambda *xs: run(*(x.t() if x.dim() == 2 else x for x in xs)), inputs)


def attention_case(
    size: tuple[int, int], channels: int, samples: int, groups: int, backend: str
) -> dict[str, Contender]:
    def attend(query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
        keys, values = (grid_sample(x, pos, size).unflatten(0, (groups, -1)) for x in (key, value))
        queries = query.unflatten(0, (groups, -1))
        alpha = torch.einsum("gcn,gcnk->gnk", queries, keys).softmax(dim=-1)
        return torch.einsum("gnk,gcnk->gcn", alpha, values).flatten(0, 1).t()

    def dyngraph(query: Tensor, key: Tensor, value: Tensor, pos: Tensor, backend: str) -> Tensor:
        near = Neighborhood(Grid([size]), pos)
        return sampled_attention(query, key, value, near, groups, backend=backend)

    nodes = size[0] * size[1]
    pos = Grid([size]).pos.unsqueeze(1) + 8 * torch.randn(nodes, samples, 2)
    inputs = [0.1 * torch.randn(nodes, channels) for _ in range(3)] + [pos]
    return {
        OURS: Contender(partial(dyngraph, backend=backend), inputs),
        PLAIN: Contender(partial(dyngraph, backend="torch"), inputs),
        "grid_sample": channels_first(attend, inputs),
        "grid_sample, channels_last": channels_last(attend, inputs),
        "materialised edges (PyG)": Contender(partial(dyngraph, backend="pyg"), inputs),
    }


def message_case(
    size: tuple[int, int], channels: int, groups: int, backend: str
) -> dict[str, Contender]:
    def weigh(weight: Tensor, value: Tensor, pos: Tensor, sample: Callable) -> Tensor:
        values = sample(value, pos, size).unflatten(0, (groups, -1))
        return torch.einsum("ngk,gcnk->gcn", weight, values).flatten(0, 1).t()

    def dyngraph(weight: Tensor, value: Tensor, pos: Tensor, backend: str) -> Tensor:
        return sampled_sum(weight, value, Neighborhood(Grid([size]), pos), backend=backend)

    nodes = size[0] * size[1]
    inputs = [torch.randn(nodes, groups, 9), torch.randn(nodes, channels), walks(size)]
    return {
        OURS: Contender(partial(dyngraph, backend=backend), inputs),
        PLAIN: Contender(partial(dyngraph, backend="torch"), inputs),
        "grid_sample": channels_first(partial(weigh, sample=grid_sample), inputs),
        "grid_sample, channels_last": channels_last(partial(weigh, sample=grid_sample), inputs),
        "unfold by deform_conv2d": channels_first(partial(weigh, sample=unfold), inputs),
    }


def prediction_case(
    size: tuple[int, int], channels: int, outputs: int, backend: str
) -> dict[str, Contender]:
    def deformable(x: Tensor, filters: Tensor, pos: Tensor) -> Tensor:
        maps, weight = x.view(1, channels, *size), filters.unflatten(2, (3, 3))
        maps, weight = maps.to(pos.dtype), weight.to(pos.dtype)
        out = deform_conv2d(maps, offsets(pos, size), weight, padding=1)
        return out[0].flatten(1).t().to(x.dtype)

    def dyngraph(x: Tensor, filters: Tensor, pos: Tensor) -> Tensor:
        return sampled_convolution(x, filters, Neighborhood(Grid([size]), pos), backend=backend)

    def product(x: Tensor, filters: Tensor, pos: Tensor) -> Tensor:
        return project(x, filters.permute(2, 0, 1).flatten(0, 1))

    @cache
    def samples(pos: Tensor) -> tuple[Neighborhood, Corners]:
        near = Neighborhood(Grid([size]), pos.detach())
        return near, find_corners(near, backend=backend)

    def given(x: Tensor, filters: Tensor, pos: Tensor) -> Tensor:
        near, corners = samples(pos)
        return sampled_convolution(x, filters, near, corners=corners, backend=backend)

    filters = torch.randn(outputs, channels, 9) / (9 * channels) ** 0.5
    inputs = [torch.randn(size[0] * size[1], channels), filters, walks(size)]
    return {
        OURS: Contender(dyngraph, inputs),
        "deform_conv2d": channels_first(deformable, inputs),
        "dyngraph, corners given": Contender(given, inputs),
        "its matrix product alone": Contender(product, inputs, same_function=False),
    }


def levels_case(
    shapes: list[tuple[int, int]], batch_size: int, num_queries: int | None, backend: str
) -> dict[str, Contender]:
    """Deformable attention: of the nodes of all levels around themselves, or of some queries."""
    heads, width, points, num_levels = 8, 32, 4, len(shapes)

    def dyngraph(value: Tensor, locations: Tensor, weight: Tensor, backend: str) -> Tensor:
        return multi_scale_deformable_attention(value, shapes, locations, weight, backend=backend)

    def transformers(value: Tensor, locations: Tensor, weight: Tensor) -> Tensor:
        module = MultiScaleDeformableAttention()
        parts = value.to(locations.dtype), locations, weight.to(locations.dtype)
        out = module(parts[0], torch.tensor(shapes), shapes, None, *parts[1:], 64)
        return out.to(value.dtype)

    sizes = torch.tensor(shapes, dtype=torch.float)
    nodes = torch.cat(
        [(Grid([shape]).pos + 0.5) / size for shape, size in zip(shapes, sizes, strict=True)]
    )
    if num_queries is None:
        spread = 2 * torch.randn(batch_size, len(nodes), heads, num_levels, points, 2)
        spread = spread / sizes.view(1, 1, 1, num_levels, 1, 2)
        locations = (nodes.view(1, -1, 1, 1, 1, 2) + spread).flip(-1)
    else:
        locations = torch.rand(batch_size, num_queries, heads, num_levels, points, 2)
    weight = torch.randn(locations.shape[:-1]).flatten(3).softmax(dim=-1)
    value = torch.randn(batch_size, len(nodes), heads, width)
    inputs = [value, locations, weight.view(locations.shape[:-1])]
    contenders = {
        OURS: Contender(partial(dyngraph, backend=backend), inputs),
        PLAIN: Contender(partial(dyngraph, backend="torch"), inputs),
        "transformers' grid_sample": Contender(transformers, inputs),
    }
    with suppress(ImportError):
        from torch_ms_deform_attn import ms_deform_attn

        counts = torch.tensor([height * width for height, width in shapes])
        levels = torch.tensor(shapes), counts.cumsum(0) - counts

        def extension(value: Tensor, locations: Tensor, weight: Tensor) -> Tensor:
            parts = value.to(locations.dtype), *(part.to(value.device) for part in levels)
            out = ms_deform_attn(*parts, locations, weight.to(locations.dtype))
            return out.to(value.dtype)

        contenders["torch-ms-deform-attn"] = Contender(extension, inputs)
    return contenders


def window_case(
    size: tuple[int, int], heads: int, width: int, reach: int, backend: str
) -> dict[str, Contender]:
    """Attention to windows that stay inside the map, as NATTEN's do."""
    (height, columns), nodes = size, size[0] * size[1]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down = key // columns - (query // columns).clamp(reach, height - 1 - reach)
        right = key % columns - (query % columns).clamp(reach, columns - 1 - reach)
        return (down.abs() <= reach) & (right.abs() <= reach)

    @cache
    def blocks(device: torch.device) -> BlockMask:
        return create_block_mask(seen, None, None, nodes, nodes, device=str(device))

    @cache
    def mask(device: torch.device) -> Tensor:
        node = torch.arange(nodes, device=device)
        return seen(node, node, node.unsqueeze(1), node)

    compiled = torch.compile(flex_attention)

    def attend(attention: Callable[..., Tensor], parts: tuple[Tensor, ...]) -> Tensor:
        heads_first = [part.view(1, nodes, heads, width).transpose(1, 2) for part in parts]
        return attention(*heads_first, scale=1.0).transpose(1, 2).reshape(nodes, -1)

    def flex(query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
        attention = partial(compiled, block_mask=blocks(query.device))
        return attend(attention, (query, key, value))

    def masked(query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
        attention = partial(F.scaled_dot_product_attention, attn_mask=mask(query.device))
        return attend(attention, (query, key, value))

    def dyngraph(query: Tensor, key: Tensor, value: Tensor, pos: Tensor, backend: str) -> Tensor:
        near = Neighborhood(Grid([size]), pos)
        return sampled_attention(query, key, value, near, heads, backend=backend)

    taps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2)
    middle = Grid([size]).pos.clamp(min=reach).minimum(torch.tensor(size) - 1.0 - reach)
    inputs = [0.1 * torch.randn(nodes, heads * width) for _ in range(3)]
    inputs.append(middle.unsqueeze(1) + taps)
    return {
        OURS: Contender(partial(dyngraph, backend=backend), inputs),
        PLAIN: Contender(partial(dyngraph, backend="torch"), inputs),
        "FlexAttention": Contender(flex, inputs, has_gradient=False),
        "SDPA with a mask": Contender(masked, inputs),
    }


DETR = [(100, 134), (50, 67), (25, 34), (13, 17)]


def walks(size: tuple[int, int]) -> Tensor:
    """Positions about one node away from the taps of rate 12."""
    taps = 12 * torch.cartesian_prod(*[torch.arange(-1.0, 2)] * 2)
    pos = Grid([size]).pos.unsqueeze(1) + taps
    return pos + torch.randn_like(pos)


def nonlocal_case(
    size: tuple[int, int], channels: int, samples: int, backend: str
) -> dict[str, Contender]:
    """Not the same function: attention to all nodes against attention to the samples."""

    def full(query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
        heads = (x[None, None] for x in (query, key, value))
        return F.scaled_dot_product_attention(*heads, scale=1.0)[0, 0]

    ours = attention_case(size, channels, samples, 1, backend)[OURS]
    return {OURS: ours, "Non-local (SDPA, all nodes)": Contender(full, ours.inputs, False)}


CASES = {
    "attention, 128x256, C 256, K 9": lambda backend: attention_case(
        (128, 256), 256, 9, 1, backend
    ),
    "attention, 128x256, C 256, K 9, 8 groups": lambda backend: attention_case(
        (128, 256), 256, 9, 8, backend
    ),
    "attention, 65x65, C 256, K 9": lambda backend: attention_case((65, 65), 256, 9, 1, backend),
    "DGMN message, 97x97, C 512, 4 groups": lambda backend: message_case((97, 97), 512, 4, backend),
    "DGMN prediction, 97x97, C 512 to 45": lambda backend: prediction_case(
        (97, 97), 512, 45, backend
    ),
    "deformable attention, encoder of 800x1066": lambda backend: levels_case(
        DETR, 1, None, backend
    ),
    "deformable attention, 300 queries": lambda backend: levels_case(DETR, 1, 300, backend),
    "deformable attention, 3 levels of 512x512, batch 2": lambda backend: levels_case(
        [(64, 64), (32, 32), (16, 16)], 2, None, backend
    ),
    "attention to windows of 7x7, 56x56, 4 heads of 32": lambda backend: window_case(
        (56, 56), 4, 32, 3, backend
    ),
    "attention against all nodes, 128x256, C 256": lambda backend: nonlocal_case(
        (128, 256), 256, 9, backend
    ),
}


def measure(
    contenders: dict[str, Contender], rounds: int, device: str = "cpu", tolerance: float = 1e-3
) -> dict[str, dict]:
    """Times and memory of each contender, after a check that all compute the same."""
    with torch.no_grad():
        expected = contenders[OURS].run(*contenders[OURS].inputs)
        for contender in contenders.values():
            if contender.same_function:
                out = contender.run(*contender.inputs)
                torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)

    def forward(contender: Contender) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad():
                contender.run(*contender.inputs)

        return call

    def training(contender: Contender) -> Callable[[], None]:
        leaves = [tensor.clone().requires_grad_() for tensor in contender.inputs]
        grad = torch.randn_like(contender.run(*leaves))
        return lambda: torch.autograd.grad(contender.run(*leaves), leaves, grad, allow_unused=True)

    passes = {"forward": forward, "forward + backward": training}
    results: dict[str, dict] = {name: {} for name in contenders}
    for label, make in passes.items():
        runs = {
            name: make(contender)
            for name, contender in contenders.items()
            if contender.has_gradient or label == "forward"
        }
        for name, milliseconds in times(runs, rounds, device).items():
            results[name][label] = {"ms": milliseconds, "MB": peak_memory(runs[name], device)}
    return results


def report(results: dict) -> str:
    rows = []
    for case, contenders in results.items():
        rows.append([f"**{case}**", "", "", "", "", "", ""])
        for name, passes in contenders.items():
            cells = [name]
            for label, passed in passes.items():
                ours = contenders[OURS][label]
                ratio = passed["ms"] / ours["ms"]
                cells += [f"{passed['ms']:.1f}", f"{ratio:.1f}", f"{passed['MB']:.0f}"]
            rows.append(cells + [""] * (7 - len(cells)))
    header = ["", "forward, ms", "ratio", "MB", "forward + backward, ms", "ratio", "MB"]
    return table(header, rows)


def run(
    description: str | None, name: str, cases: dict[str, Callable[[], dict[str, Contender]]]
) -> None:
    """Measures the cases selected on the command line; writes and prints the results."""
    parser = arguments(description, name, rounds=3)
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    for case in tqdm([case for case in cases if args.case in case], unit="case"):
        torch.manual_seed(0)
        results[case] = measure(cases[case](), args.rounds)
        write(args.out, {"cases": results}, bars(results, ["forward", "forward + backward"]))
    print(report(results))


if __name__ == "__main__":
    run(__doc__, "ops", {name: partial(make, "auto") for name, make in CASES.items()})
