"""Arguments of runs on the command line that take seconds, and what these print."""

#: Two iterations of any segmenter, and of a small one.
SEGMENTER = [
    "--data.crop_size=[64,64]",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.sync_batchnorm=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
TINY_SEGMENTER = [
    *SEGMENTER,
    "--network.backbone=small_trunk",
    "--network.head_channels=8",
    "--network.context=bottleneck_repgraph",
]

#: Two iterations of any detector, and of a small one.
DETECTOR = [
    "--network.weights_backbone=null",
    "--network.min_size=32",
    "--network.max_size=128",
    "--network.pyramid_channels=16",
    "--network.box_batch_size_per_image=8",
    "--network.rpn_post_nms_top_n_train=16",
    "--network.rpn_post_nms_top_n_test=16",
    "--network.box_detections_per_img=5",
    "--network.box_score_thresh=0.0",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
TINY_DETECTOR = ["--task=detection", "--network.backbone=resnet18", *DETECTOR]


def scores(capsys):
    """What a command has printed, as text: NaN equals NaN."""
    return dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
