"""Where samples stand while a network trains: a picture of plain and of placed samples.

    python benchmarks/sample_paths.py

Trains bottleneck RepGraph on the task "a cue each" of `long_range.py` twice with one seed, plain
and placed, and draws for every sample the way from its start (or from where it was placed) to its
end, as large as the attention that nodes on objects pay it in the end, and coloured by the gradient
that its offset got over the training. The third panel is U, from which `SampleSearch` chose.
"""

import argparse
from pathlib import Path

import torch
from long_range import AT, SCENES_SEED, SIZE, TASKS, build, judge, load, train
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from dyngraph.data import OBJECT_CLASSES, generate_scenes
from dyngraph.nn import RepGraphConv

TASK = "a cue each"


class Watch:
    """The places of all samples over a training, their gradients and U."""

    def __init__(self, model: nn.Module) -> None:
        (self.conv,) = (m for m in model.modules() if isinstance(m, RepGraphConv))
        self.places: list[Tensor] = []
        self.gradient = torch.zeros(self.conv.sampler.num_samples)
        self.conv.sampler.offset.bias.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        self.places.append(self.conv.sampler.offset.bias.detach().clone().view(-1, 2))
        self.gradient += gradient.view(-1, 2).norm(dim=1)


@torch.no_grad()
def attention_of_objects(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean attention of nodes on objects to each sample ``[K]``."""
    (conv,) = (m for m in model.modules() if isinstance(m, RepGraphConv))
    inputs: list = []
    hook = conv.register_forward_hook(lambda module, given, out: inputs.extend(given))
    scores = model(images)["out"]
    hook.remove()
    alpha = conv.sample(*inputs)[2].mean(dim=1)
    stride = scores.shape[2] // inputs[1].runs[0].shape[0]
    nodes = labels[:, stride // 2 :: stride, stride // 2 :: stride].flatten()
    return alpha[torch.isin(nodes, torch.tensor(OBJECT_CLASSES))].mean(dim=0)


def draw(axes: Axes, title: str, watch: Watch, attention: Tensor, since: int) -> None:
    """The ways of the samples from iteration ``since`` on."""
    ways = torch.stack(watch.places[since:])
    for way in ways.unbind(1):
        axes.plot(way[:, 1], way[:, 0], color="0.6", linewidth=1)
    end = ways[-1]
    points = axes.scatter(
        end[:, 1],
        end[:, 0],
        s=1500 * attention,
        c=watch.gradient,
        norm=LogNorm(),
        cmap="viridis",
        edgecolors="black",
    )
    axes.figure.colorbar(points, ax=axes, label="gradient of the offset, summed over iterations")
    axes.set_title(title)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/long_range/sample_paths.png"), help="(%(default)s)")
    add("--steps", type=int, default=1_000, help="iterations (%(default)s)")
    add("--seed", type=int, default=3, help="of the network (%(default)s)")
    args = parser.parse_args()
    folder = args.out.parent / "scenes" / TASK
    generate_scenes(folder, size=SIZE, seed=SCENES_SEED, **TASKS[TASK])
    figure = Figure((17, 5), layout="constrained")
    plain, placed, places = figure.subplots(1, 3)
    for axes, name, since in ((plain, "plain", 0), (placed, "placed", int(AT * args.steps))):
        torch.manual_seed(args.seed)
        model = build("bottleneck RepGraph")
        watch = Watch(model)
        found = train(model, folder, args.steps, placed=name == "placed")
        images, labels = load(folder, "val")
        score = judge(model.eval(), images, labels)["object IoU"]
        attention = attention_of_objects(model, images, labels)
        draw(axes, f"{name}: object IoU {score:.2f}", watch, attention, since)
    (useful,) = found.values()
    reach = [length / 2 for length in useful.shape]
    picture = places.imshow(useful, extent=(-reach[1], reach[1], reach[0], -reach[0]))
    figure.colorbar(picture, ax=places, label="U")
    places.set_title("U at a quarter of the training")
    for axes in (plain, placed, places):
        axes.set(xlim=(-reach[1], reach[1]), ylim=(reach[0], -reach[0]), aspect="equal")
        axes.set(xlabel="nodes to the right", ylabel="nodes down")
        axes.plot(0, 0, "r+")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
