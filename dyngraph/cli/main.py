"""Commands and their arguments."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from dyngraph.cli.checkpoint_settings import checkpoint_settings
from dyngraph.cli.detection import DetectionRun
from dyngraph.cli.help import make_brief
from dyngraph.cli.messages import one_line, only_our_messages
from dyngraph.cli.plot import plot, plot_parser
from dyngraph.cli.run import Run
from dyngraph.cli.segmentation import SegmentationRun
from dyngraph.config import read_config
from dyngraph.models import HubModel
from dyngraph.train import fit

RUNS: dict[str, Run] = {"segmentation": SegmentationRun(), "detection": DetectionRun()}
"""The values of ``--task``."""

_DEFAULT = "segmentation"

_TRACEBACK = "--traceback"

_MISTAKES = (ArgumentError, ImportError, MisconfigurationException, OSError, TypeError, ValueError)
"""The errors of users' mistakes. Others are faults of the program and keep their traceback."""


def main(arguments: Sequence[str] | None = None) -> None:
    r"""Runs a command, by default that of the process.

    The exit code is 1 if ``predict`` had to skip images. A mistake gives one line on standard error
    and exit code 2, or, with ``--traceback`` anywhere, an exception.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with only_our_messages():
        if _TRACEBACK in given:
            _main([argument for argument in given if argument != _TRACEBACK])
            return
        try:
            _main(given)
        except _MISTAKES as error:
            print(f"dyngraph: {one_line(error)} ({_TRACEBACK} shows where)", file=sys.stderr)
            raise SystemExit(2) from error


def load_trained(checkpoint: str | Path) -> tuple[HubModel, dict[str, Any]]:
    r"""The network of a checkpoint of the command ``fit``, as it was trained.

    Nothing in the file is executed. What is returned can be saved for others, see
    :meth:`~dyngraph.models.HubModel.save_pretrained`.

    Args:
        checkpoint: The file.

    Returns:
        The network, on the CPU, in evaluation mode; and its classes: their ``names``, ``palette``,
        and for a segmenter the ``normalization`` of images.

    Raises:
        OSError: If the file is missing or damaged, or is not a readable checkpoint.
        ValueError: If it has no settings of a run, or broken ones, or names objects that are not
            dyngraph's own.
    """
    given = _with_checkpoint(["view", "--checkpoint", str(checkpoint), "--trainer.accelerator=cpu"])
    if not given[1].startswith("--config") or given[1] == "--config={}":
        raise ValueError(
            f"{checkpoint}: expected a checkpoint of the command fit, which has its settings"
        )
    run = _run(given)
    parser = _view_parser(run)
    args = parser.instantiate(parser.parse_args([*given[1:], "no image"]))
    classes = run.known_classes(args)
    data = run.data_class(**args.data, seed=args.seed)
    model: HubModel = run.trained_task(args, data, classes).model.eval()
    model.class_names = tuple(classes["names"])
    return model, classes


def _main(given: Sequence[str]) -> None:
    description = "Networks with dyngraph's blocks."
    parser = ArgumentParser(prog="dyngraph", description=description, exit_on_error=False)
    help_ = "show where an error comes from; may come after the command too"
    parser.add_argument(_TRACEBACK, action="store_true", help=help_)
    commands = parser.add_subcommands(dest="command")
    given = _with_checkpoint(list(_read_configs(given or ["--help"])))
    run = _run(given)
    for name, command_parser in COMMANDS.items():
        subparser = command_parser(run)
        commands.add_subcommand(name, subparser, help=command_parser.__doc__)
        make_brief(subparser, run.sources)
    commands.add_subcommand("plot", plot_parser(), help=plot_parser.__doc__)
    args = parser.parse_args(given)
    if args.command == "plot":
        plot(**args.plot.as_dict())
        return
    config = COMMANDS[args.command](run).dump(args[args.command], skip_unset=False)
    # Named classes become instances; groups stay groups, because seeding comes first.
    instances = parser.instantiate(args)[args.command]
    if args.command == "view" and instances.compare is not None:
        given = ["view", "--checkpoint", instances.compare, *instances.images]
        other = parser.parse_args(_with_checkpoint(given))
        instances.other = parser.instantiate(other)[args.command]
    if instances.trainer.enable_progress_bar is None:
        instances.trainer.enable_progress_bar = sys.stdout.isatty()
    getattr(run, args.command)(instances, config)


def _fit_parser(run: Run) -> ArgumentParser:
    """Trains a network."""
    return _run_parser(run)


def _validate_parser(run: Run) -> ArgumentParser:
    """Scores a network on the validation images."""
    parser = _run_parser(run)
    _add_checkpoint(parser)
    return parser


def _test_parser(run: Run) -> ArgumentParser:
    """Writes predictions for the validation images; scores the files, with official code."""
    parser = _run_parser(run)
    _add_checkpoint(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of predictions")
    return parser


def _predict_parser(run: Run) -> ArgumentParser:
    """Predicts all images of a folder."""
    parser = _run_parser(run)
    _add_checkpoint(parser)
    parser.add_argument("--images", type=str, required=True, help="folder of images")
    parser.add_argument("--out", type=str, required=True, help="folder of predictions")
    help_ = "stop at the first image that cannot be read, instead of skipping it"
    parser.add_argument("--strict", action="store_true", help=help_)
    run.add_predict_arguments(parser)
    return parser


def _view_parser(run: Run) -> ArgumentParser:
    """Writes a page for each image, on which to look at what the network listens to."""
    parser = _run_parser(run)
    _add_checkpoint(parser)
    help_ = "another checkpoint of fit, whose network is shown beside the first"
    parser.add_argument("--compare", type=str | None, help=help_)
    help_ = "smallest score of an object that is shown"
    parser.add_argument("--threshold", type=float, default=0.5, help=help_)
    parser.add_argument("--out", type=str, default="viewer", help="folder of the pages")
    help_ = "PNG or JPEG files"
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help=help_)
    return parser


def _add_checkpoint(parser: ArgumentParser) -> None:
    help_ = "a checkpoint of fit; by default the last one in trainer.folder"
    parser.add_argument("--checkpoint", type=str | None, help=help_)


def _run_parser(run: Run) -> ArgumentParser:
    """The arguments of a run, the same for all commands, so that one file serves all."""
    parser = ArgumentParser()
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
    parser.add_argument("--task", choices=[*RUNS], default=_DEFAULT, help="the kind of network")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_class_arguments(run.data_class, "data", skip={"seed"}, instantiate=False)
    parser.add_function_arguments(run.network, "network", skip={"num_classes"})
    skip = {"model", "seed", *run.given_by_data}
    parser.add_class_arguments(run.task_class, "model", skip=skip, instantiate=False)
    parser.add_function_arguments(fit, "trainer", skip={"task", "data", "record"})
    name = next(name for name, other in RUNS.items() if other is run)
    parser.set_defaults({"task": name, "trainer.folder": f"runs/{name}", **run.defaults})
    parser.set_defaults({"trainer.enable_model_summary": False})
    return parser


def _read_configs(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, with the paths of files replaced by their content."""
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, path = argument.partition("=")
        if option != "--config":
            yield argument
        elif path := path if equals else next(remaining, ""):
            yield f"--config={json.dumps(read_config(path))}"
        else:
            raise ValueError("--config: expected the path of a YAML file")


def _with_checkpoint(arguments: list[str]) -> list[str]:
    """The arguments of a command after the settings that its checkpoint was trained with."""
    path = ""
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        if option == "--checkpoint":
            path = value if equals else following
    if arguments[:1] not in (["predict"], ["view"]) or not path:
        return arguments
    return [arguments[0], f"--config={json.dumps(checkpoint_settings(path))}", *arguments[1:]]


def _run(arguments: Sequence[str]) -> Run:
    """The run that ``--task`` names, in a file or as an argument, before there is a parser."""
    name = _DEFAULT
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = argument.partition("=")
        if option == "--config":
            name = json.loads(value).get("task", name)
        elif option == "--task":
            name = value if equals else following
    if name not in RUNS:
        raise ValueError(f"--task: expected one of {(*RUNS,)}, got {name!r}")
    return RUNS[name]


COMMANDS: dict[str, Callable[[Run], ArgumentParser]] = {
    "fit": _fit_parser,
    "validate": _validate_parser,
    "test": _test_parser,
    "predict": _predict_parser,
    "view": _view_parser,
}
"""The parser of each command of a run. A command runs the method of that name."""
