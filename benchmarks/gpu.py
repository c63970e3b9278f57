"""The operators, the blocks and their growth against alternatives, on a GPU.

    python benchmarks/gpu.py

Operators and blocks as in `ops.py` and `blocks.py`, in float32 and bfloat16, with dyngraph's Triton
kernels; growth as in `growth.py`. Contenders take turns in this process, timed by CUDA events.
*Bandwidth* is the bytes of an operator's inputs and outputs, each counted once, over its time, as a
share of what a copy reaches in the same run. In bfloat16, `grid_sample` and `deform_conv2d` sample
in float32: they take positions in the type of the features, and bfloat16 positions are off by
nodes.
"""

from collections.abc import Callable

import growth
import ops
import torch
from blocks import CASES as BLOCKS
from blocks import bf16, layer, training_step
from matplotlib.figure import Figure
from measure import MEGA, arguments, bars, forward, peak_memory, table, times, write
from ops import OURS, Contender
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

DEVICE = "cuda"
# What half a unit in the last place of bfloat16 can grow to in a sum of products.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
COPIED = 2**30
PASSES = ["forward", "forward + backward"]
BLOCK_PASSES = ["forward", "forward, bf16", "training step", "training step, bf16"]


def dense_attention(query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
    """Attention to all nodes, holding the matrix of all pairs."""
    return (query @ key.t()).softmax(dim=-1) @ value


def contenders(case: str, dtype: torch.dtype) -> dict[str, Contender]:
    """The contenders of a case on the GPU, with features in a dtype, positions in float32."""
    made = ops.CASES[case]("triton")
    made["dyngraph, backend torch"] = ops.CASES[case]("torch")[OURS]._replace(
        inputs=made[OURS].inputs
    )
    if "all nodes" in case:
        made["Non-local (dense matrix)"] = Contender(dense_attention, made[OURS].inputs, False)
    return {
        # FlexAttention has a gradient here.
        name: contender._replace(inputs=moved(contender, dtype), has_gradient=True)
        for name, contender in made.items()
    }


def moved(contender: Contender, dtype: torch.dtype) -> list[Tensor]:
    # Positions have two coordinates.
    return [x.to(DEVICE, torch.float32 if x.shape[-1] == 2 else dtype) for x in contender.inputs]


def measure_operators(rounds: int, bandwidth: float) -> dict[str, dict]:
    results = {}
    for case in tqdm(ops.CASES, unit="case"):
        for dtype, tolerance in TOLERANCES.items():
            torch.manual_seed(0)
            runs = contenders(case, dtype)
            result = ops.measure(runs, rounds, DEVICE, tolerance)
            for name, contender in runs.items():
                for label in PASSES:
                    reached = moved_bytes(contender, label) / result[name][label]["ms"]
                    result[name][label]["bandwidth"] = reached / bandwidth
            results[f"{case}, {str(dtype).removeprefix('torch.')}"] = result
    return results


def moved_bytes(contender: Contender, label: str) -> int:
    """The bytes of inputs and outputs; in the backward pass also of all gradients."""
    with torch.no_grad():
        out = contender.run(*contender.inputs)
    held = sum(tensor.nbytes for tensor in (*contender.inputs, out))
    return held if label == "forward" else 3 * held - out.nbytes


def copy_bandwidth(rounds: int) -> float:
    """Bytes read and written by a copy, per millisecond."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * COPIED / times({"": lambda: target.copy_(source)}, rounds, DEVICE)[""]


def dense(run: Callable[[], None]) -> Callable[[], None]:
    """The same, holding the matrix of all pairs."""
    return sdpa_kernel(SDPBackend.MATH)(run)


def measure_blocks(rounds: int) -> dict[str, dict]:
    results = {}
    for case, ((channels, size), layout, makers) in tqdm(BLOCKS.items(), unit="case"):
        maps = torch.randn(1, channels, *size, device=DEVICE).contiguous(memory_format=layout)
        blocks = {
            name: make(channels).to(DEVICE, memory_format=layout) for name, make in makers.items()
        }
        nonlocal_name, nonlocal_block = next(iter(blocks.items()))
        dense_name = f"{nonlocal_name}, dense matrix"
        result: dict[str, dict] = {name: {} for name in (*blocks, dense_name)}
        for label in (*BLOCK_PASSES, "layer"):
            runs = {
                name: block_run(block, maps, label)
                for name, block in blocks.items()
                if label != "layer" or hasattr(block, "conv")
            }
            if label != "layer":
                runs[dense_name] = dense(block_run(nonlocal_block, maps, label))
            for name, milliseconds in times(runs, rounds, DEVICE).items():
                megabytes = peak_memory(runs[name], DEVICE)
                result[name][label] = {"ms": milliseconds, "MB": megabytes}
        results[case] = result
    return results


def block_run(block: nn.Module, maps: Tensor, label: str) -> Callable[[], None]:
    if label == "layer":
        return layer(block, tuple(maps.shape[2:]), DEVICE)
    run = forward(block, maps) if label.startswith("forward") else training_step(block, maps)
    return bf16(run, DEVICE) if label.endswith("bf16") else run


def report_operators(results: dict[str, dict]) -> str:
    rows = []
    for case, result in results.items():
        rows.append([f"**{case}**", *[""] * 8])
        for name, passes in result.items():
            cells = [name]
            for label in PASSES:
                found = passes[label]
                ratio = found["ms"] / result[OURS][label]["ms"]
                cells += [f"{found['ms']:.3f}", f"{ratio:.1f}", f"{found['MB']:.0f}"]
                cells += [f"{found['bandwidth']:.0%}"]
            rows.append(cells)
    header = [""]
    for label in PASSES:
        header += [f"{label}, ms", "ratio", "MB", "bandwidth"]
    return table(header, rows)


def report_blocks(results: dict[str, dict]) -> str:
    rows = []
    for case, result in results.items():
        rows.append([f"**{case}**", *[""] * (3 * len(BLOCK_PASSES) + 1)])
        baseline = next(iter(result.values()))
        for name, passes in result.items():
            cells = [name]
            for label in BLOCK_PASSES:
                found = passes[label]
                ratio = baseline[label]["ms"] / found["ms"]
                cells += [f"{found['ms']:.2f}", f"{ratio:.1f}", f"{found['MB']:.0f}"]
            share = passes["layer"]["ms"] / passes["forward"]["ms"] if "layer" in passes else None
            rows.append([*cells, "" if share is None else f"{share:.0%}"])
    header = [""]
    for label in BLOCK_PASSES:
        header += [f"{label}, ms", "times faster", "MB"]
    return table([*header, "layer"], rows)


def main() -> None:
    parser = arguments(__doc__, "gpu", rounds=3)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU that PyTorch sees: torch.cuda.is_available()")
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(args.rounds)
    print(f"A copy moves {bandwidth / MEGA:.0f} GB/s.\n")
    operators = measure_operators(args.rounds, bandwidth)
    print(report_operators(operators) + "\n")
    save(args.out, "operators", operators, bars(operators, PASSES), bandwidth)
    blocks = measure_blocks(args.rounds)
    print(report_blocks(blocks) + "\n")
    save(args.out, "blocks", blocks, bars(blocks, BLOCK_PASSES), bandwidth)
    curves = growth.measure(args.rounds, DEVICE)
    print(growth.report(curves))
    save(args.out, "growth", curves, growth.draw(curves), bandwidth)


def save(path, part: str, results: dict, figure: Figure, bandwidth: float) -> None:
    """One file per part, side by side."""
    found = {"copy bytes/ms": bandwidth, "results": results}
    write(path.with_stem(f"{path.stem}_{part}"), found, figure)


if __name__ == "__main__":
    main()
