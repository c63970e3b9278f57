"""Trains a small network on as many processes as ``torchrun`` starts, or on one.

With ``--largest-file``, files can't grow beyond some bytes from the third iteration on: writing
fails in the middle, as on a full disk.
"""

import argparse
import os
import resource
import signal

import lightning
import torch
from torch import nn

from dyngraph.models import Segmenter
from dyngraph.train import SegmentationDataModule, SegmentationTask, fit


class FullDisk(lightning.Callback):
    def __init__(self, largest_file: int) -> None:
        self.largest_file = largest_file

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: object) -> None:
        if trainer.global_step == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, self.largest_file))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--largest-file", type=int)
    parser.add_argument("--checkpoint-every", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # PyTorch's synchronised batch normalisation runs on GPUs only: a norm of each image alone.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
    task = SegmentationTask(Segmenter(network, nn.Conv2d(8, 19, 1)), lr=0.1)
    module = SegmentationDataModule(
        args.data, crop_size=(48, 64), batch_size=4, num_workers=args.workers
    )
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    scores = fit(
        task,
        module,
        args.folder,
        max_steps=args.steps,
        resume=args.resume,
        checkpoint_every=args.checkpoint_every,
        callbacks=[FullDisk(args.largest_file)] if args.largest_file else [],
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Its threads would abort the end of the process now and then.
    assert not torch.distributed.is_initialized()
    if task.global_rank == 0:
        print(scores["miou"], scores["pixel_accuracy"])


if __name__ == "__main__":
    main()
