"""Files that are damaged at random, and what reading one costs."""

import ctypes
import signal
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

#: Bytes that mean something in one format or another.
HARD = [
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b'"', b"{", b"[[[[", b"-",
    b"&a *a", b"1e999", b"NaN", b"null", b"\n", b"\xff\xd8", b"IDAT", b"PK\x03\x04",
]  # fmt: skip


@st.composite
def mutations(draw):
    """A function that damages bytes in up to four places."""
    place = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["flip", "cut", "insert", "repeat", "swap", "overwrite"])
    steps = draw(
        st.lists(
            st.tuples(
                kinds,
                place,
                place,
                st.integers(1, 64),
                st.one_of(st.sampled_from(HARD), st.binary(min_size=1, max_size=8)),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content):
        for step in steps:
            content = _changed(content, *step)
        return content

    return mutate


def _changed(content, kind, first, second, length, block):
    start, other = (int(part * len(content)) for part in (first, second))
    if kind == "flip":
        bits = bytes(byte ^ block[0] for byte in content[start : start + length])
        return content[:start] + bits + content[start + length :]
    if kind == "cut":
        # Half of them at the end, as a full disk or a lost connection does.
        return content[:start] if second < 0.5 else content[:start] + content[start + length :]
    if kind == "insert":
        return content[:start] + block + content[start:]
    if kind == "overwrite":
        return content[:start] + block + content[start + len(block) :]
    piece = content[start : start + length]
    if kind == "repeat":
        return content[:other] + piece + content[other:]
    rest = content[:start] + content[start + length :]
    return rest[:other] + piece + rest[other:]


class TooLong(BaseException):
    """Reading has taken more than ten seconds."""


@contextmanager
def ten_seconds():
    """Ends what takes longer, by an error that no reader catches."""

    def stop(*_):
        raise TooLong

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def peak_growth(function):
    """How many bytes more than before the process has had at most while a function ran."""
    # The peak starts anew from what is in use, without what the allocator keeps for later.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    try:
        function()
    finally:
        growth = _status("VmHWM") - before
    return growth


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
