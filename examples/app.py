"""A page in the browser that runs a network on the images that one gives it.

It shows the prediction, and what the network listens to. Takes a checkpoint of the command ``fit``,
a folder of ``save_pretrained``, or a name on the Hugging Face Hub:

    python examples/app.py runs/segmentation/last.ckpt
    python examples/app.py user/streets

Prints the address of the page. Needs ``pip install 'dyngraph[train,hub,app]'``.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_dtype

from dyngraph.cli import load_trained
from dyngraph.data import eval_transform
from dyngraph.models import Detector, HubModel, from_pretrained
from dyngraph.viz import draw_detections, explore
from dyngraph.viz.colours import distinct_colours
from dyngraph.viz.explore import NoLayersError
from dyngraph.viz.segmentation import colorize


class Demo:
    """A network, and what it says of an image.

    Args:
        source: A checkpoint, a folder, or a name on the Hub.
        longest: The longest side of images, in pixels; larger ones are made smaller.
    """

    def __init__(self, source: str, *, longest: int = 1024) -> None:
        self.model, self.palette = load(source)
        self.names = self.model.class_names or tuple(f"class {n}" for n in range(len(self.palette)))
        self.title = source
        self.longest = longest

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, str]:
        """The picture of the prediction, and the page of what the network listens to, as HTML."""
        picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        if max(picture.shape) > self.longest:
            picture = resize(picture, None, max_size=self.longest)
        is_detector = isinstance(self.model, Detector)
        image: Any = eval_transform()(picture).unsqueeze(0)
        if is_detector:
            image = [to_dtype(picture, torch.float32, scale=True)]
        with torch.inference_mode():
            output = self.model(image)
        drawn = self.draw_objects if is_detector else self.draw_classes
        shown = drawn(picture, output).permute(1, 2, 0).numpy()
        try:
            viewer = explore(
                self.model,
                image,
                picture=picture,
                class_names=self.names,
                palette=self.palette,
                title=self.title,
            )
        except NoLayersError:
            return shown, "This network has no layer that listens to samples."
        return shown, viewer._repr_html_()

    def draw_classes(self, picture: Tensor, output: dict[str, Tensor]) -> Tensor:
        """The colours of the classes over the picture."""
        colours = colorize(output["out"][0].argmax(dim=0), self.palette)
        return ((picture.float() + colours.float()) / 2).round().byte()

    def draw_objects(self, picture: Tensor, output: list[dict[str, Tensor]]) -> Tensor:
        """The boxes and masks over the picture."""
        return draw_detections(picture, output[0], self.names, self.palette)


def load(source: str) -> tuple[HubModel, Tensor]:
    """A network, and the colours of its classes."""
    if Path(source).is_file():
        model, classes = load_trained(source)
        return model, torch.tensor(classes["palette"], dtype=torch.uint8)
    model = from_pretrained(source)
    assert model.recipe is not None
    return model, distinct_colours(model.recipe.arguments["num_classes"])


def build(demo: Demo) -> Any:
    """The page, which ``launch`` serves."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "examples/app.py needs gradio: pip install 'dyngraph[train,hub,app]'"
        ) from error
    return gradio.Interface(
        demo,
        gradio.Image(label="Image", image_mode="RGB"),
        [gradio.Image(label="Prediction"), gradio.HTML(label="What the network listens to")],
        title=demo.title,
        flagging_mode="never",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="a checkpoint of fit, a folder, or a name on the Hub")
    add("--longest", type=int, default=1024, help="longest side of images (%(default)s)")
    add("--port", type=int, help="port of the page, on this machine alone")
    args = parser.parse_args()
    build(Demo(args.source, longest=args.longest)).launch(server_port=args.port)


if __name__ == "__main__":
    main()
