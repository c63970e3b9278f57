"""Help that fits on two screens, and all arguments of a group on request."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_OPTIONS_COLUMN = 30
_SUBCLASSES = ", known subclasses: "
# ":class:`~dyngraph.data.CocoDetection`" and "``text``".
_MARKUP = ((re.compile(r":\w+:`~?([^`]+)`"), r"\1"), (re.compile(r"``([^`]*)``"), r"\1"))
_SENTENCE = re.compile(r"(.+?)(?<=[\w)])(?<!e\.g)[.:]\s", re.DOTALL)


class GroupFormatter(DefaultHelpFormatter):
    r"""Everything known about an argument, except the list of PyTorch's classes that it may be."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, _, classes = super()._get_help_string(action).partition(_SUBCLASSES)
        return _plain(f"{text})" if classes else text)


class BriefFormatter(GroupFormatter):
    r"""One sentence on each argument of our own, and its default."""

    own: Mapping[str, frozenset[str]]
    """The names of our arguments in each group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": _OPTIONS_COLUMN})

    def _format_usage(self, usage: Any, actions: Any, *args: Any, **kwargs: Any) -> str:
        given = "".join(f" {a.metavar} ..." for a in actions if not a.option_strings)
        return f"usage: {self._prog} [--config FILE] [--ARGUMENT VALUE ...]{given}\n\n"

    def add_argument(self, action: argparse.Action) -> None:
        group, _, name = action.dest.partition(".")
        if group not in self.own or name in self.own[group]:
            super().add_argument(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        return action.option_strings[-1 if "-h" in action.option_strings else 0]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = _plain(action.help or "")
        sentence = _SENTENCE.match(text)
        text = (sentence[1] if sentence else text).rstrip(".:;")
        if action.default in (None, (), argparse.SUPPRESS):
            return f"{text} (required)" if action.required else text
        return f"{text} (%(default)s)"


class GroupHelp(argparse.Action):
    r"""An option such as ``--data.help``, which shows all arguments of its group."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS)
        self.group = dest.partition(".")[0]

    def __call__(self, parser: Any, *args: Any) -> None:
        # The parser exits after this help, so it may forget the other arguments.
        parser._action_groups = [parser.groups[self.group]]
        parser.formatter_class, parser.usage, parser.epilog = (
            GroupFormatter,
            argparse.SUPPRESS,
            None,
        )
        parser.print_help()
        parser.exit()


def make_brief(parser: ArgumentParser, sources: Mapping[str, Callable[..., Any]]) -> None:
    r"""Makes the help of a command brief, with an option for each group that shows all of it.

    Args:
        parser: The parser of the command.
        sources: The function of each group of arguments. The brief help has its own arguments, not
            those that it passes on.
    """

    class Formatter(BriefFormatter):
        own = MappingProxyType({name: _arguments(source) for name, source in sources.items()})

    options = [f"--{name}.help" for name in sources]
    for option in options:
        parser.add_argument(option, action=GroupHelp)
    for group in (parser.groups or {}).values():
        group.title = _plain(group.title or "")
    parser.formatter_class = Formatter
    parser.epilog = f"All arguments of a group, PyTorch's too: {', '.join(options)}"


def _arguments(source: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(source).parameters)


def _plain(text: str) -> str:
    """A docstring's text without its markup."""
    for pattern, words in _MARKUP:
        text = pattern.sub(words, text)
    return " ".join(text.split())
