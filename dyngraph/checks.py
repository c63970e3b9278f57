"""Checks of arguments."""

from __future__ import annotations


def check_at_least(least: float, **values: float) -> None:
    r"""Checks numbers, given by argument name.

    Raises:
        ValueError: If one is smaller. The error names it.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
