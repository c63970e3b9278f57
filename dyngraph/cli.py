"""The command line: ``dyngraph fit``, ``validate`` and ``predict``.

Needs ``pip install 'dyngraph[train]'``. Everything that a run depends on is an argument, typed and
listed by ``--help``; files given by ``--config`` may set any of them, and may inherit from others
(:func:`~dyngraph.config.read_config`). Later arguments replace earlier ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence

import lightning
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from dyngraph.config import read_config
from dyngraph.evaluate import Inference
from dyngraph.evaluate.predict import predict_folder
from dyngraph.models import segmenter
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit, load_weights

# The arguments of a trainer that matter where nothing is trained.
_DEVICES = ("accelerator", "devices", "num_nodes", "strategy", "precision")


def main(arguments: Sequence[str] | None = None) -> None:
    r"""Runs a command, by default that of the process."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser.parse_args(list(_read_configs(given)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # What names a class becomes its instance; the groups stay groups, because seeds come first.
    args = parser.instantiate_classes(args)
    {"fit": _fit, "validate": _validate, "predict": _predict}[args.command](args[args.command])


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="dyngraph", description="Segmenters with dyngraph's blocks.")
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("fit", _run_parser(), help="train a segmenter")
    validate = _run_parser()
    validate.add_argument("--checkpoint", type=str, required=True, help="a last.ckpt of fit")
    commands.add_subcommand("validate", validate, help="score a segmenter on validation images")
    predict = _run_parser()
    predict.add_argument("--checkpoint", type=str, required=True, help="a last.ckpt of fit")
    predict.add_argument("--images", type=str, required=True, help="folder of images")
    predict.add_argument("--out", type=str, required=True, help="folder of labels and overlays")
    predict.add_argument("--label_ids", type=bool, default=False, help="also Cityscapes' ids")
    commands.add_subcommand("predict", predict, help="label all images of a folder")
    return parser


def _run_parser() -> ArgumentParser:
    """The arguments of a run, the same for all commands, so that one file serves all."""
    parser = ArgumentParser()
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
    parser.add_argument("--seed", type=int, default=0, help="what all randomness is derived from")
    parser.add_class_arguments(SegmentationDataModule, "data", skip={"seed"}, instantiate=False)
    parser.add_function_arguments(segmenter, "network", skip={"num_classes"})
    parser.add_class_arguments(
        SegmentationTask,
        "model",
        skip={"model", "num_classes", "class_names", "seed"},
        instantiate=False,
    )
    parser.add_function_arguments(fit, "trainer", skip={"task", "data"})
    parser.set_defaults({"trainer.folder": "runs/segmentation"})
    return parser


def _read_configs(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, with the content of files in the place of their paths."""
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, path = argument.partition("=")
        if option != "--config":
            yield argument
        elif path := path if equals else next(remaining, ""):
            yield f"--config={json.dumps(read_config(path))}"
        else:
            raise ValueError("--config: expected the path of a YAML file")


def _build(args: Namespace) -> tuple[SegmentationTask, SegmentationDataModule]:
    """What a run trains and judges."""
    lightning.seed_everything(args.seed, verbose=False)
    data = SegmentationDataModule(**args.data, seed=args.seed)
    data.prepare_data()
    data.setup("validate")
    names = data.val.class_names
    network = segmenter(**args.network, num_classes=len(names))
    task = SegmentationTask(
        network, len(names), class_names=list(names), **args.model, seed=args.seed
    )
    return task, data


def _fit(args: Namespace) -> None:
    task, data = _build(args)
    _print_scores(fit(task, data, **args.trainer))


def _validate(args: Namespace) -> None:
    task, data = _build(args)
    load_weights(task, args.checkpoint)
    devices = {name: args.trainer[name] for name in _DEVICES}
    trainer = lightning.Trainer(logger=False, **devices)
    _print_scores(trainer.validate(task, data, verbose=False)[0])


def _predict(args: Namespace) -> None:
    task, data = _build(args)
    load_weights(task, args.checkpoint)
    predict_folder(
        task,
        args.images,
        args.out,
        task.inference or Inference(),
        palette=data.val.palette,
        label_ids=args.label_ids,
    )


def _print_scores(scores: Mapping[str, float]) -> None:
    for name, value in scores.items():
        print(f"{name:32} {value:.4f}")


if __name__ == "__main__":
    main()
