"""What users see: one line for a mistake, and only messages meant for them."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

_LENGTH = 500

_WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",
    r"The number of training batches .* is smaller than the logging interval",
    r"The '.*_dataloader' does not have many workers",
)
_NOTES = (
    "💡 Tip:",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "`Trainer.fit` stopped",
    "`Trainer(val_check_interval=",
)
_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")

_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\s+Subtypes: \[(.*?)\]\s+Errors:.*"
    r"Given value: ",
    re.DOTALL,
)
# An error in an argument of a class or function that is itself a setting.
_NESTED = re.compile(
    r'(Parser key "[^"]+":).*Parser key "([^"]+)":.*?Errors:\s+- '
    r"(?:Type [^\n]*? expects a function or a callable class: )?"
    r"([^\n]*?)(?:\. Got value: .*|\n.*)",
    re.DOTALL,
)
# jsonargparse's words, and ones that a user knows.
_WORDS = (
    (_NESTED, r"\1 \2: \3"),
    (_UNION, r"Expected a \1. Got value: "),
    (re.compile(r'Parser key "([^"]+)":'), r"--\1:"),
    (re.compile(r"Expected a (.*)\. Got value: "), r"expected \1, got "),
    (re.compile(r"<class '(?:\w+\.)*NoneType'>"), "null"),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (re.compile(r"typing\.Literal\[(.*?)\]"), r"one of \1"),
    (re.compile(r"(?:collections\.abc\.)?Sequence\b"), "list"),
    (re.compile(r"\btuple\b"), "list"),
)
_REQUIRED = "the following arguments are required: "


def one_line(error: BaseException) -> str:
    r"""The message of an error, in one line."""
    text = str(error) or type(error).__name__
    if "Original Traceback" in text:
        # From a loading process: the error's own message ends the traceback.
        text = text.strip().splitlines()[-1].partition(": ")[2]
    if text.startswith(_REQUIRED):
        # Their names start with the command.
        names = text.removeprefix(_REQUIRED).split(", ")
        text = _REQUIRED + ", ".join(f"--{name.partition('.')[2]}" for name in names)
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    text = " ".join(text.split())
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"


def _in_thread(failed: threading.ExceptHookArgs) -> None:
    """Shows the error of a thread, except TensorBoard's, which the run will show."""
    if not isinstance(failed.thread, _AsyncWriterThread):
        threading.__excepthook__(failed)


def _is_ours(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOTES)


@contextmanager
def only_our_messages() -> Iterator[None]:
    r"""Drops Lightning's messages about other products and its own internals; the rest stays."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.addFilter(_is_ours)
        former, threading.excepthook = threading.excepthook, _in_thread
        try:
            yield
        finally:
            threading.excepthook = former
            for logger in loggers:
                logger.removeFilter(_is_ours)
