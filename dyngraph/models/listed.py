"""Lists of names in errors."""

_LISTED = 20


def listed(names: list[str]) -> str:
    r"""The first names, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
