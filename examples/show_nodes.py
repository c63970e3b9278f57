"""Draws the nodes that pixels listen to over an image.

With RepGraph, those of each pixel (its paper's Figure 6); with DGMN, those of the pixel in the
middle of the list, at all rates (its paper's Figure 4).

Takes a run of ``examples/train_cityscapes.py`` (its ``last.ckpt``) or of ``examples/demo.py``:

    python examples/show_nodes.py IMAGE.png --checkpoint runs/cityscapes/last.ckpt
    python examples/show_nodes.py IMAGE.png --backbone small_trunk --head-channels 64 \
        --context repgraph --checkpoint runs/demo/RepGraph/last.ckpt --pixels 54,20 54,64
"""

import argparse
from pathlib import Path

import torch
from torchvision.io import ImageReadMode, read_image
from torchvision.tv_tensors import Image, Mask

from dyngraph.data import eval_transform
from dyngraph.models import segmenter
from dyngraph.train import SegmentationTask
from dyngraph.viz import draw_listening


def pixel(text: str) -> tuple[int, int]:
    row, column = text.split(",")
    return int(row), int(column)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("image", type=Path, help="a PNG or JPEG file")
    add("--checkpoint", type=Path, required=True, help="a last.ckpt")
    add("--context", default="bottleneck_repgraph", help="as in the run (%(default)s)")
    add("--backbone", default="resnet50", help="as in the run (%(default)s)")
    add("--head-channels", type=int, default=512, help="as in the run (%(default)s)")
    add("--pixels", type=pixel, nargs="+", metavar="ROW,COLUMN", help="three, if not given")
    add("--out", type=Path, default=Path("nodes.png"), help="(%(default)s)")
    args = parser.parse_args()

    state = torch.load(args.checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    model = segmenter(
        args.backbone,
        args.context,
        head_channels=args.head_channels,
        aux_loss=any(name.startswith("model.aux_classifier") for name in state),
    )
    SegmentationTask(model).load_state_dict(state)

    picture = Image(read_image(str(args.image), ImageReadMode.RGB, apply_exif_orientation=True))
    height, width = picture.shape[-2:]
    image, _ = eval_transform()(picture, Mask(torch.zeros(height, width, dtype=torch.uint8)))
    pixels = args.pixels or [(height * 3 // 4, width * part // 4) for part in (1, 2, 3)]
    figures = [figure for _, figure in draw_listening(model, image.unsqueeze(0), picture, pixels)]
    if not figures:
        parser.error(
            f"--context: expected repgraph, bottleneck_repgraph or dgmn, got {args.context}"
        )
    figures[0].savefig(args.out, dpi=150)
    print(args.out)


if __name__ == "__main__":
    main()
