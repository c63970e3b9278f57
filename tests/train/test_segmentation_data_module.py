from types import SimpleNamespace

import pytest
import torch

from dyngraph.data import CityscapesSegmentation, eval_transform, generate_scenes
from dyngraph.train import SegmentationDataModule


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder, num_train=5, num_val=2, progress=False)
    return folder


def make_module(scenes, world_size=1, accumulate=1, rank=0, **options):
    options = {"crop_size": (24, 32), "num_workers": 0} | options
    module = SegmentationDataModule(scenes, batch_size=4, **options)
    module.trainer = SimpleNamespace(
        max_steps=6,
        world_size=world_size,
        global_rank=rank,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    module.setup("fit")
    return module


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_an_iteration_sees_batch_size_images(scenes, world_size, accumulate):
    loaders = [
        make_module(scenes, world_size, accumulate, rank).train_dataloader()
        for rank in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    for loader, part in zip(loaders, batches, strict=True):
        assert len(loader) == len(part) == 6 * accumulate
        for image, label in part:
            assert image.shape == (4 // world_size // accumulate, 3, 24, 32)
            assert label.shape == (4 // world_size // accumulate, 24, 32)
    # All processes together see the samples that a single one would have seen, step by step.
    (single,) = [list(make_module(scenes).train_dataloader())]
    for step, (images, _) in enumerate(single):
        seen = torch.cat(
            [part[step * accumulate + i][0] for part in batches for i in range(accumulate)]
        )
        assert {image.sum().item() for image in seen} == {image.sum().item() for image in images}


def test_the_scale_of_the_crops(scenes):
    # Crops of the whole scene: larger scenes fill them, smaller ones are padded with 255.
    ignored = []
    for scale in ((0.5, 0.5), (2.0, 2.0)):
        loader = make_module(scenes, crop_size=(64, 128), scale=scale).train_dataloader()
        _, label = next(iter(loader))
        ignored.append((label == 255).float().mean().item())
    assert ignored[0] >= 0.75
    assert ignored[1] < 0.5


def test_one_of_several_scales(scenes):
    loader = make_module(scenes, crop_size=(128, 256), scales=[0.5, 2.0]).train_dataloader()
    areas = [int(area) for _, label in loader for area in (label != 255).sum(dim=(1, 2))]
    # Less than the scene, because some of its pixels have no class.
    smaller = [area for area in areas if area <= 32 * 64]
    larger = [area for area in areas if 64 * 128 < area <= 128 * 256]
    assert len(smaller) + len(larger) == len(areas) == 24
    assert 4 < len(smaller) < 20


@pytest.mark.parametrize("options", [{"scale": (1.0, 1.0)}, {"scales": [1.0]}])
def test_without_scaling_crops_have_the_pixels_of_the_images(scenes, options):
    """The whole scene, flipped or not, bit for bit."""
    whole = CityscapesSegmentation(scenes, "train", transform=eval_transform())
    module = make_module(scenes, crop_size=(64, 128), **options)
    flips = []
    for seed in range(20):
        image, label = module.train[seed % 5, seed]
        expected, expected_label = whole[seed % 5]
        flipped = not torch.equal(image, expected)
        assert torch.equal(image.flip(-1) if flipped else image, expected)
        assert torch.equal(label.flip(-1) if flipped else label, expected_label)
        flips.append(flipped)
    assert 3 < sum(flips) < 17


def test_a_range_and_a_list_of_scales(scenes):
    with pytest.raises(ValueError, match=r"^scale, scales: expected a range or a list"):
        SegmentationDataModule(scenes, scale=(1.0, 1.0), scales=[1.0])


@pytest.mark.parametrize(("train_split", "numbers"), [("train", (5, 0)), ("trainval", (5, 2))])
def test_what_is_trained_on(scenes, train_split, numbers):
    """Whole scenes, flipped or not, tell which ones a pass over the images has: each once."""
    options = {"crop_size": (64, 128), "scale": (1.0, 1.0), "train_split": train_split}
    module = make_module(scenes, **options)
    loader = module.train_dataloader()
    images = torch.cat([image for image, _ in loader])[: sum(numbers)]
    for split, number in zip(("train", "val"), numbers, strict=True):
        known = [
            image for image, _ in CityscapesSegmentation(scenes, split, transform=eval_transform())
        ]
        seen = [
            sum(torch.equal(image, old) or torch.equal(image.flip(-1), old) for image in images)
            for old in known
        ]
        assert seen == [1 if number else 0] * len(known)
    assert module.val.image_paths == CityscapesSegmentation(scenes, "val").image_paths


def test_an_unknown_train_split_is_named(scenes):
    with pytest.raises(ValueError, match=r"^train_split: expected one of .*, got 'test'"):
        SegmentationDataModule(scenes, train_split="test")


def test_validation_sees_whole_images(scenes):
    module = make_module(scenes, val_batch_size=2)
    ((image, label),) = module.val_dataloader()
    assert image.shape == (2, 3, 64, 128)
    assert torch.equal(image[1], module.val[1][0])
    assert torch.equal(label[0], module.val[0][1])


def test_processes_share_the_validation_images(scenes):
    single = list(make_module(scenes).val_dataloader())
    shares = [list(make_module(scenes, 2, rank=rank).val_dataloader()) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    for (image, label), share in zip(single, shares, strict=True):
        assert torch.equal(share[0][0], image)
        assert torch.equal(share[0][1], label)
