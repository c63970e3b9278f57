"""The command line: ``dyngraph fit``, ``validate``, ``test``, ``predict``, ``view``, ``plot``.

Needs ``pip install 'dyngraph[train]'``. Everything that a run depends on is an argument, typed and
listed by ``--help``; files given by ``--config`` may set any of them, and may inherit from others
(:func:`~dyngraph.config.read_config`). Later arguments replace earlier ones. ``--task`` chooses the
kind of network, and with it the arguments. :func:`load_trained` builds the network of a checkpoint.
"""

from dyngraph.cli.main import load_trained, main

__all__ = ["load_trained", "main"]
