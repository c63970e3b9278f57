"""The command line: ``dyngraph fit``, ``validate``, ``test`` and ``predict``.

Needs ``pip install 'dyngraph[train]'``. Everything that a run depends on is an argument, typed and
listed by ``--help``; files given by ``--config`` may set any of them, and may inherit from others
(:func:`~dyngraph.config.read_config`). Later arguments replace earlier ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import lightning
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dyngraph.config import read_config
from dyngraph.data import DATASETS
from dyngraph.evaluate import Inference
from dyngraph.evaluate.cityscapes import judge_predictions, prediction_path
from dyngraph.evaluate.label_files import score_predictions
from dyngraph.evaluate.predict import predict_folder
from dyngraph.models import segmenter
from dyngraph.train import (
    LogPictures,
    SegmentationDataModule,
    SegmentationTask,
    fit,
    load_weights,
)
from dyngraph.train.fit import CHECKPOINT

# The arguments of a trainer that matter where nothing is trained.
_VALIDATION = (
    "accelerator",
    "devices",
    "enable_progress_bar",
    "limit_val_batches",
    "num_nodes",
    "precision",
    "strategy",
)


def main(arguments: Sequence[str] | None = None) -> None:
    r"""Runs a command, by default that of the process."""
    parser = ArgumentParser(prog="dyngraph", description="Segmenters with dyngraph's blocks.")
    commands = parser.add_subcommands(dest="command")
    for name, (_, run_parser) in COMMANDS.items():
        commands.add_subcommand(name, run_parser(), help=run_parser.__doc__)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser.parse_args(list(_read_configs(given)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    run, run_parser = COMMANDS[args.command]
    config = run_parser().dump(args[args.command])
    # What names a class becomes its instance; the groups stay groups, because seeds come first.
    run(parser.instantiate(args)[args.command], config)


def _fit_parser() -> ArgumentParser:
    """Trains a segmenter."""
    return _run_parser()


def _validate_parser() -> ArgumentParser:
    """Scores a segmenter on the validation images."""
    parser = _run_parser()
    _add_checkpoint(parser)
    return parser


def _test_parser() -> ArgumentParser:
    """Writes predictions for the validation images; scores the files, by the official judge."""
    parser = _run_parser()
    _add_checkpoint(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of labels and overlays")
    return parser


def _predict_parser() -> ArgumentParser:
    """Labels all images of a folder."""
    parser = _run_parser()
    _add_checkpoint(parser)
    parser.add_argument("--images", type=str, required=True, help="folder of images")
    parser.add_argument("--out", type=str, required=True, help="folder of labels and overlays")
    parser.add_argument("--label_ids", type=bool, default=False, help="also Cityscapes' ids")
    return parser


def _add_checkpoint(parser: ArgumentParser) -> None:
    help_ = "a checkpoint of fit; by default the last one in trainer.folder"
    parser.add_argument("--checkpoint", type=str | None, help=help_)


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


def _data(args: Namespace) -> SegmentationDataModule:
    data = SegmentationDataModule(**args.data, seed=args.seed)
    data.prepare_data()
    data.setup("validate")
    return data


def _task(args: Namespace, class_names: Sequence[str]) -> SegmentationTask:
    lightning.seed_everything(args.seed, verbose=False)
    num_classes = len(class_names)
    network = segmenter(**args.network, num_classes=num_classes)
    return SegmentationTask(
        network, num_classes, class_names=list(class_names), **args.model, seed=args.seed
    )


class SaveConfig(lightning.Callback):
    r"""Writes all arguments of a run beside its checkpoints, for the commands that follow."""

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self.config = config

    @rank_zero_only
    def on_train_start(self, *args: object) -> None:
        self.path.write_text(self.config)


def _fit(args: Namespace, config: str) -> None:
    data = _data(args)
    task = _task(args, data.val.class_names)
    save = SaveConfig(Path(args.trainer.folder, "config.yaml"), config)
    callbacks = [*args.trainer.pop("callbacks"), save, LogPictures(data.val)]
    _print_scores(fit(task, data, callbacks=callbacks, **args.trainer))


def _validate(args: Namespace, config: str) -> None:
    data = _data(args)
    task = _task(args, data.val.class_names)
    load_weights(task, _checkpoint(args))
    options = {name: args.trainer[name] for name in _VALIDATION}
    trainer = lightning.Trainer(logger=False, use_distributed_sampler=False, **options)
    _print_scores(trainer.validate(task, data, verbose=False)[0])


def _test(args: Namespace, config: str) -> None:
    data = _data(args)
    task = _task(args, data.val.class_names)
    load_weights(task, _checkpoint(args))
    images, _ = data.val.folders(data.root, "val")
    is_cityscapes = args.data.dataset == "cityscapes"
    labels = predict_folder(
        task,
        images,
        args.out,
        task.inference or Inference(),
        palette=data.val.palette,
        label_ids=is_cityscapes,
        paths=data.val.image_paths,
    )
    if is_cityscapes:
        folder = Path(args.out, "label_ids")
        files = [prediction_path(folder, image) for image in data.val.image_paths]
        _print_scores(judge_predictions(files, data.val.label_paths))
    else:
        truth = (data.val[index][1] for index in range(len(data.val)))
        _print_scores(score_predictions(labels, truth, data.val.class_names))


def _predict(args: Namespace, config: str) -> None:
    # The images of the data set need not be there.
    data = SegmentationDataModule(**args.data, seed=args.seed)
    names, palette = DATASETS[data.dataset].classes(data.root)
    task = _task(args, names)
    load_weights(task, _checkpoint(args))
    predict_folder(
        task,
        args.images,
        args.out,
        task.inference or Inference(),
        palette=palette,
        label_ids=args.label_ids,
    )


def _checkpoint(args: Namespace) -> str | Path:
    return args.checkpoint or Path(args.trainer.folder, CHECKPOINT)


@rank_zero_only
def _print_scores(scores: Mapping[str, float]) -> None:
    for name, value in scores.items():
        print(f"{name:32} {value:.4f}")


COMMANDS: dict[str, tuple[Callable[[Namespace, str], None], Callable[[], ArgumentParser]]] = {
    "fit": (_fit, _fit_parser),
    "validate": (_validate, _validate_parser),
    "test": (_test, _test_parser),
    "predict": (_predict, _predict_parser),
}

if __name__ == "__main__":
    main()
