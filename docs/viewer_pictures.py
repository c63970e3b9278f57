"""The pictures of the viewer's page: screenshots of it, of networks trained on the demo's scenes,
and RepGraph's page in motion.

RepGraph and DGMN are the demo's. DGMN2, and an encoder of transformers' Deformable DETR with a
classifier on its finest map, are trained first, unless they are in ``runs/viewer`` already.

    make demo
    python docs/viewer_pictures.py

Needs Chromium, Playwright and transformers: ``pip install 'dyngraph[dev]'``.
"""

import argparse
import io
import runpy
import shutil
import warnings
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from torch import Tensor, nn
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoder

from dyngraph.data import CLASS_NAMES, PALETTE, CityscapesSegmentation, eval_transform
from dyngraph.models import SmallTrunk, segmenter
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit
from dyngraph.viz import explore

ROOT = Path(__file__).parents[1]
DEMO = runpy.run_path(str(ROOT / "examples/demo.py"))
SIZE, CHANNELS = DEMO["SIZE"], 64
OPTIONS = ["--no-sandbox", "--disable-gpu"]


class DeformableSegmenter(nn.Module):
    """Two layers of Deformable DETR's encoder on two maps of a small trunk."""

    def __init__(self) -> None:
        super().__init__()
        config = DeformableDetrConfig(
            d_model=CHANNELS,
            encoder_layers=2,
            encoder_ffn_dim=2 * CHANNELS,
            encoder_attention_heads=4,
            num_feature_levels=2,
        )
        self.trunk = SmallTrunk(CHANNELS)
        self.project = nn.LazyConv2d(CHANNELS, 1)
        self.place = nn.Linear(4, CHANNELS)
        self.encoder = DeformableDetrEncoder(config)
        self.classify = nn.Conv2d(CHANNELS, len(CLASS_NAMES), 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.project(self.trunk(image))
        maps = [fine, F.avg_pool2d(fine, 2)]
        shapes = [tuple(part.shape[2:]) for part in maps]
        nodes = torch.cat([part.flatten(2).transpose(1, 2) for part in maps], dim=1)
        starts = torch.tensor([0, shapes[0][0] * shapes[0][1]])
        encoded = self.encoder(
            inputs_embeds=nodes,
            attention_mask=torch.ones(nodes.shape[:2], dtype=torch.bool),
            spatial_position_embeddings=self.place(_places(shapes)).expand_as(nodes),
            spatial_shapes=torch.tensor(shapes),
            spatial_shapes_list=shapes,
            level_start_index=starts,
            valid_ratios=torch.ones(len(image), len(maps), 2),
        ).last_hidden_state
        scores = self.classify(encoded[:, : starts[1]].transpose(1, 2).unflatten(2, shapes[0]))
        return {"out": F.interpolate(scores, image.shape[2:], mode="bilinear")}


def _places(shapes: list[tuple[int, ...]]) -> Tensor:
    """Where the nodes of maps are, and on which map, as waves."""
    parts = []
    for level, (height, width) in enumerate(shapes):
        rows, columns = torch.arange(height) / height, torch.arange(width) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        parts.append(torch.stack([y, x, (6 * x).sin(), torch.full_like(x, level)], dim=-1))
    return torch.cat([part.flatten(0, 1) for part in parts])


def train(model: nn.Module, scenes: Path, folder: Path, steps: int, lr: float) -> nn.Module:
    """Trains a segmenter, or takes it from ``folder``."""
    lightning.seed_everything(1, verbose=False)
    task = SegmentationTask(model, lr=lr, optimizer="adamw", weight_decay=1e-4, seed=1)
    options = {"scale": (1, 1), "num_workers": 1, "seed": 1, "val_batch_size": 20}
    data = SegmentationDataModule(scenes, crop_size=SIZE, batch_size=8, **options)
    quiet = {"accelerator": "cpu", "enable_model_summary": False, "enable_progress_bar": False}
    print(fit(task, data, folder, steps, resume=True, checkpoint_every=100, **quiet))
    return model.eval()


def of_demo(name: str, folder: Path) -> nn.Module:
    """A model of the demo."""
    model = segmenter("small_trunk", DEMO["CONTEXTS"][name], head_channels=CHANNELS)
    state = torch.load(folder / name / "last.ckpt", weights_only=True)
    SegmentationTask(model).load_state_dict(state["state_dict"], strict=False)
    return model.eval()


def point(page: Page, row: float, column: float) -> None:
    """Points at a pixel of the scene."""
    box = page.locator(".stage").first.bounding_box()
    assert box is not None
    height, width = SIZE
    page.mouse.move(
        box["x"] + (column + 0.5) / width * box["width"],
        box["y"] + (row + 0.5) / height * box["height"],
    )
    page.wait_for_timeout(300)


def save(page: Page, path: Path) -> None:
    """A screenshot, losslessly."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image.save(path, optimize=True)
    print(path, path.stat().st_size)


def film(page: Page, path: Path) -> None:
    """The pointer's way over the road and back over the houses, in all three views."""
    page.set_viewport_size({"width": 1000, "height": 600})
    frames, milliseconds = [], []

    def look(wait: int) -> None:
        page.wait_for_timeout(100)
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        milliseconds.append(wait)

    road = [(54, column) for column in range(20, 108, 4)]
    houses = [(26, column) for column in range(104, 20, -4)]
    for step, (row, column) in enumerate([*road, *houses]):
        point(page, row, column)
        look(1200 if step == 0 else 120)
    for view in ("Who listens", "Density"):
        page.get_by_role("radio", name=view).click()
        point(page, 8, 76)
        look(2500)
    # One palette for all views: pixels that do not change are stored once.
    width, height = frames[0].size
    views = Image.new("RGB", (width, 3 * height))
    for number, frame in enumerate((frames[0], *frames[-2:])):
        views.paste(frame, (0, number * height))
    colours = views.quantize(256)
    first, *others = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
    print(path, path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/viewer"), help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="iterations (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="(%(default)s)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")

    scenes = args.demo / "scenes"
    data = CityscapesSegmentation(scenes, "val", transform=eval_transform())
    deformable = DeformableSegmenter()
    deformable(data[0][0].unsqueeze(0))  # which gives the lazy layer its channels
    models = {
        "RepGraph": of_demo("RepGraph", args.demo),
        "DGMN": of_demo("DGMN", args.demo),
        "Deformable DETR": train(deformable, scenes, args.runs / "deformable", args.steps, 1e-3),
        "DGMN2": train(
            segmenter("dgmn2_tiny", head_channels=CHANNELS),
            scenes,
            args.runs / "dgmn2",
            args.steps,
            3e-4,
        ),
    }
    image, label = data[0]
    texts = {"class_names": CLASS_NAMES, "palette": PALETTE, "title": data.image_paths[0].name}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for name, model in models.items():
            viewer = explore({name: model}, image.unsqueeze(0), label=label, **texts)
            path = viewer.save(args.runs / f"{name.replace(' ', '_').lower()}.html")
            print(path, path.stat().st_size)
            dark = "dark" if name == "DGMN" else "light"
            context = browser.new_context(
                offline=True, viewport={"width": 1200, "height": 700}, color_scheme=dark
            )
            page = context.new_page()
            page.goto(path.resolve().as_uri())
            page.locator(".stage").first.wait_for()
            if name == "DGMN2":
                page.get_by_role("tab", name="8 × 16").click()  # noqa: RUF001
            point(page, 54, 64)
            save(page, args.out / f"viewer_{path.stem}.png")
            if name == "RepGraph":
                film(page, args.out / "viewer.gif")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
