"""Runs of a segmenter on the command line that take a fraction of a second."""

from dyngraph.cli import main
from dyngraph.train import read_checkpoint

ARGUMENTS = [
    "--data.dataset=folder",
    "--data.crop_size=32",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--network.backbone=small_trunk",
    "--network.head_channels=8",
    "--network.context=none",
    "--trainer.accelerator=cpu",
    "--trainer.sync_batchnorm=false",
    "--trainer.checkpoint_every=1",
    "--trainer.log_every_n_steps=1",
]


def arguments(root, folder, steps, *others):
    """Those of a run, which goes on if there is a checkpoint."""
    return ["fit", *ARGUMENTS, f"--data.root={root}", f"--trainer.folder={folder}",
            f"--trainer.max_steps={steps}", "--trainer.resume=true", *others]  # fmt: skip


def fit(root, folder, steps, *others):
    main(arguments(root, folder, steps, *others))


def weights(folder):
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def step(folder):
    return read_checkpoint(folder / "last.ckpt")["global_step"]
