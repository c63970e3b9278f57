"""What ``predict`` says about images that cannot be read."""

from __future__ import annotations

import sys

from tqdm import tqdm

from dyngraph.cli.messages import one_line


class UnreadableImages:
    r"""Names each image that cannot be read on standard error, beside any progress bar."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: OSError | ValueError) -> None:
        self.count += 1
        tqdm.write(f"dyngraph: skipped: {one_line(error)}", file=sys.stderr)

    def end(self, num_read: int) -> None:
        r"""Says how many images could not be read, if any.

        Args:
            num_read: The number of the other images.

        Raises:
            SystemExit: With 1, if there were any: everything is done except these.
        """
        if self.count:
            total = self.count + num_read
            print(f"dyngraph: {self.count} of {total} images could not be read", file=sys.stderr)
            raise SystemExit(1)
