"""Detectors on classes that depend on a far beacon, with several seeds.

    python benchmarks/far_classes.py

Runs ``examples/train_coco.py`` with each seed, which has its own strips and weights, and prints the
mean and range of COCO's average precision. Finished runs are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from measure import table

from dyngraph.data import FAR_CLASSES, NEAR_CLASSES

EXAMPLE = Path(__file__).parents[1] / "examples/train_coco.py"
GROUPS = {"near": NEAR_CLASSES, "far": FAR_CLASSES}


def average(scores: dict[str, float], kind: str, group: str) -> float:
    return mean(scores[f"{kind}_ap/{name}"] for name in GROUPS[group])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/far_classes"), help="(%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    add("--contexts", nargs="+", default=["baseline", "repgraph", "dgmn"], help="(%(default)s)")
    add("--steps", type=int, help="iterations; as in the example if not given")
    args = parser.parse_args()
    options = ["--contexts", *args.contexts]
    if args.steps is not None:
        options += ["--steps", str(args.steps)]
    for seed in args.seeds:
        command = [sys.executable, EXAMPLE, "--seed", str(seed), "--out", args.out / str(seed)]
        subprocess.run([*command, *options], check=True)

    header = [f"{kind} AP, {group}" for kind in ("box", "mask") for group in GROUPS]
    rows = []
    for name in args.contexts:
        runs = [
            json.loads((args.out / str(seed) / name / "scores.json").read_text())
            for seed in args.seeds
        ]
        cells = []
        for kind in ("box", "mask"):
            for group in GROUPS:
                values = [average(scores, kind, group) for scores in runs]
                cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        rows.append([name, *cells])
    print(f"\nseeds {', '.join(map(str, args.seeds))}: mean (lowest to highest)\n")
    print(table(["detector", *header], rows))


if __name__ == "__main__":
    main()
