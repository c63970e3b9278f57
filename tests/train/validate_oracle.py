"""Validates an oracle on one process or as many as ``torchrun`` starts; each writes its scores."""

import json
import os
import sys
from pathlib import Path

import lightning
from oracle_detector import OracleDetector

from dyngraph.train import DetectionDataModule, DetectionTask


def main() -> None:
    data = DetectionDataModule(sys.argv[1], num_workers=0)
    data.setup("validate")
    path, ids = data.val.annotation_path, data.val.category_ids
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    trainer = lightning.Trainer(
        logger=False,
        use_distributed_sampler=False,
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        enable_progress_bar=False,
    )
    task = DetectionTask(OracleDetector(data.val), path, ids)
    (scores,) = trainer.validate(task, data, verbose=False)
    # Files, because lines that processes print may mix.
    Path(sys.argv[2], f"{trainer.global_rank}.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
