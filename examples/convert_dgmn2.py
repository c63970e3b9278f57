"""Converts a released file of DGMN2 to a folder that ``from_pretrained`` and safetensors read.

    python examples/convert_dgmn2.py dgmn2_small_model.pth --model dgmn2_small --out runs/dgmn2
    python examples/convert_dgmn2.py mask_rcnn.pth --model dgmn2_tiny --features-only --out coco

The first is a classifier, the second the backbone of a detector or segmenter. Prints what was
loaded. Needs ``pip install 'dyngraph[train, hub]'``.
"""

import argparse
from pathlib import Path

from dyngraph import models
from dyngraph.models import load_official
from dyngraph.models.dgmn2 import DEPTHS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="the released file")
    add("--model", choices=list(DEPTHS), default="dgmn2_small", help="(%(default)s)")
    add("--classes", type=int, default=1000, help="classes of the classifier (%(default)s)")
    add("--features-only", action="store_true", help="the backbone without the classifier")
    add("--out", type=Path, required=True, help="the folder")
    args = parser.parse_args()

    model = getattr(models, args.model)(args.classes, features_only=args.features_only)
    print(load_official(model, args.checkpoint))
    model.save_pretrained(args.out)
    print(f"{args.out}: {type(model).__name__}")


if __name__ == "__main__":
    main()
