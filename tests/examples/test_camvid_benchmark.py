"""The benchmark on CamVid, on a few small images in its format."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dyngraph.cli import main
from dyngraph.data import CamVidSegmentation
from dyngraph.data.generated.shapes import draw_shapes
from dyngraph.models import save_safetensors
from dyngraph.train.checkpoint import read_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = (64, 96)


@pytest.fixture(scope="module")
def camvid():
    """The script as a module, for images of another size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        module = importlib.import_module("camvid")
        patch.setattr(module, "SIZE", SIZE)
        patch.setattr(module, "CROP", 4)
        yield module


@pytest.fixture(scope="module")
def args(camvid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("camvid")
    data, out = folder / "data", folder / "out"
    for split, count in (("train", 3), ("val", 2)):
        (data / split).mkdir(parents=True)
        (data / f"{split}annot").mkdir()
        for number in range(count):
            image, classes = draw_shapes(0, split, number, CamVidSegmentation.palette)
            height, width = SIZE
            label = np.where(classes == 255, 11, classes)[:height, :width].astype(np.uint8)
            Image.fromarray(image[:height, :width]).save(data / split / f"{number}.png")
            Image.fromarray(label).save(data / f"{split}annot" / f"{number}.png")
    torch.manual_seed(0)
    save_safetensors(timm.create_model(camvid.NAME), camvid.weights_path(out))
    found = argparse.Namespace(
        data=data, out=out, steps=3, seeds=[5], contenders=["bottleneck RepGraph"]
    )
    for split in camvid.SPLITS:
        camvid.compute_features(found, split)
    threads = torch.get_num_threads()
    camvid.run("bottleneck RepGraph", 5, found)
    torch.set_num_threads(threads)
    return found


def test_scores_are_those_of_the_checkpoint_s_predictions(camvid, args, tmp_path):
    """Counted anew, class by class, in the files of ``predict``, which computes all features."""
    checkpoint = camvid.run_path(args.out, "bottleneck RepGraph", 5, 3, ".ckpt")
    images, out = args.data / "val", tmp_path / "out"
    main(["predict", f"--checkpoint={checkpoint}", f"--images={images}", f"--out={out}"])
    truth, found = (
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
        for folder in (args.data / "valannot", out / "labels")
    )
    known = truth != 11
    ious = []
    for number in range(11):
        is_true, is_found = (truth == number) & known, (found == number) & known
        union = (is_true | is_found).sum()
        ious.append((is_true & is_found).sum() / union if union else np.nan)
    scores = json.loads(camvid.run_path(args.out, "bottleneck RepGraph", 5, 3).read_text())
    assert scores["mIoU"] == pytest.approx(np.nanmean(ious), abs=1e-12)
    assert scores["pixel accuracy"] == pytest.approx((truth == found)[known].mean(), abs=1e-12)
    assert [*scores["IoU"]] == [*CamVidSegmentation.class_names]
    assert np.allclose([*scores["IoU"].values()], ious, atol=1e-12, equal_nan=True)
    assert len({*np.unique(found)}) > 1


def test_only_the_head_has_changed(camvid, args):
    """What the backbone was is what it still is; the same run again ends with the same bits."""
    path = camvid.run_path(args.out, "bottleneck RepGraph", 5, 3, ".ckpt")
    weights = read_checkpoint(path)["state_dict"]
    fresh = camvid.set_up("bottleneck RepGraph", 5, args).task
    start = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    for name in start:
        is_head = name.startswith("model.classifier.") and start[name].dim() > 1
        if name.startswith("model.backbone."):
            assert torch.equal(weights[name], start[name]), name
        elif is_head and "sampler" not in name:
            assert not torch.equal(weights[name], start[name]), name
    camvid.train(fresh, args.out, args.steps, 5)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh.state_dict().items())


def test_features_are_those_of_the_mirrored_image(camvid, args):
    task, load, _ = camvid.set_up("FCN", 0, args)
    features = camvid.read_features(args.out, "train mirrored")
    image, label = load("train")[1]
    with torch.no_grad():
        want = task.model.features(image.flip(-1)[None])["out"].as_subclass(torch.Tensor)
    maps = features.maps[1:2].permute(0, 3, 1, 2)
    # The same sums in another order of memory.
    torch.testing.assert_close(maps, want, atol=1e-5 * want.abs().max().item(), rtol=0)
    assert torch.equal(features.labels[1].long(), label.flip(-1).as_subclass(torch.Tensor))


def test_the_table(camvid, args, monkeypatch, capsys):
    """Nothing is left to run, so nothing is."""
    path = camvid.run_path(args.out, "bottleneck RepGraph", 5, 3)
    scores = json.loads(path.read_text())
    command = ["camvid.py", "--data", args.data, "--out", args.out, "--steps", 3, "--seeds", 5]
    command += ["--contenders", "bottleneck RepGraph"]
    monkeypatch.setattr("sys.argv", [*map(str, command)])
    camvid.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| bottleneck RepGraph |")]
    assert len(rows) == 2
    miou = f"{scores['mIoU']:.3f}"
    assert f"| {miou} ({miou} to {miou}) |" in rows[0]
    assert rows[1].split(" | ")[1:3] == [
        f"{scores['IoU'][name]:.3f}" for name in ("sky", "building")
    ]
