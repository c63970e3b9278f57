import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from dyngraph.data import (
    denormalize,
    detection_eval_transform,
    detection_train_transform,
    eval_transform,
    train_transform,
)
from dyngraph.data.transforms import RandomScale, RandomScaleOf

MEAN_COLOUR = torch.tensor([124, 116, 104])


def blocks(size=(24, 40), block=4):
    """A mask of random ids in blocks, and an image whose red channel is five times the id."""
    height, width = size
    ids = torch.randint(1, 20, (height // block, width // block), dtype=torch.uint8)
    mask = ids.repeat_interleave(block, 0).repeat_interleave(block, 1)
    image = torch.stack([mask * 5, torch.full_like(mask, 50), torch.full_like(mask, 90)])
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def random_pairs(transform, count=20):
    for seed in range(count):
        torch.manual_seed(seed)
        image, mask = blocks()
        yield (image, mask), transform(image, mask)


def test_eval_transform_normalises_the_image_and_keeps_the_mask():
    image, mask = blocks()
    out, out_mask = eval_transform()(image, mask)
    expected = v2.functional.normalize(
        image.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.as_subclass(torch.Tensor), expected)
    assert torch.equal(out_mask, mask)
    assert out_mask.dtype == torch.uint8


def test_denormalize_is_the_inverse():
    image = tv_tensors.Image(torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8))
    picture = denormalize(eval_transform()(image))
    assert picture.dtype == torch.uint8
    assert torch.equal(picture, image.as_subclass(torch.Tensor))


def test_denormalize_clips():
    picture = denormalize(torch.tensor([100.0, -100.0, 0.0])[:, None, None])
    assert picture.flatten().tolist() == [255, 0, 104]


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8)])
def test_denormalize_needs_three_channels(shape):
    with pytest.raises(ValueError, match=r"image: expected shape \[\.\.\., 3, H, W\]"):
        denormalize(torch.zeros(shape))


def test_crop_and_flip_keep_image_and_mask_aligned():
    flipped = 0
    crops = set()
    for (_, mask), (out, out_mask) in random_pairs(train_transform((12, 16), scale=(1, 1))):
        assert out.shape == (3, 12, 16)
        assert out_mask.shape == (12, 16)
        assert torch.equal(denormalize(out)[0], out_mask * 5)
        windows = mask.unfold(0, 12, 1).unfold(1, 16, 1)
        places = (windows == out_mask).all(-1).all(-1).nonzero().tolist()
        mirrored = (windows == out_mask.flip(-1)).all(-1).all(-1).nonzero().tolist()
        assert len(places) + len(mirrored) == 1
        flipped += len(mirrored)
        crops.add(tuple((places + mirrored)[0]))
    assert 3 <= flipped <= 17
    assert len(crops) > 10


def test_scale_keeps_image_and_mask_aligned():
    sizes = set()
    for (image, mask), (out, out_mask) in random_pairs(RandomScale((0.5, 2.0))):
        sizes.add(tuple(out.shape[-2:]))
        assert out.shape[-2:] == out_mask.shape
        factor = out.shape[-1] / image.shape[-1]
        assert 0.5 <= factor <= 2
        assert out.shape[-2] == pytest.approx(image.shape[-2] * factor, abs=1)
        assert set(out_mask.unique().tolist()) <= set(mask.unique().tolist())
        if factor > 1.3:
            # Away from the borders of blocks, interpolation sees one colour only.
            inner = -torch.nn.functional.max_pool2d(-out_mask[None].float(), 5, 1, 2)[0]
            outer = torch.nn.functional.max_pool2d(out_mask[None].float(), 5, 1, 2)[0]
            same = inner == outer
            assert same.any()
            assert torch.equal(out[0][same], out_mask[same] * 5)
    assert len(sizes) > 10


def test_scale_of_one_changes_nothing():
    for (image, mask), (out, out_mask) in random_pairs(RandomScale((1.0, 1.0)), count=3):
        assert torch.equal(out, image)
        assert torch.equal(out_mask, mask)


def test_one_of_several_scales():
    """RepGraph's, each about as often as the others, for image and mask alike."""
    scales = (0.75, 1, 1.25, 1.5, 1.75, 2)
    sizes = [(round(24 * scale), round(40 * scale)) for scale in scales]
    drawn = []
    for _, (out, out_mask) in random_pairs(RandomScaleOf(scales), count=300):
        assert out.shape[-2:] == out_mask.shape
        drawn.append(tuple(out_mask.shape))
    assert set(drawn) == set(sizes)
    # Five standard deviations of a count around its mean.
    assert all(abs(drawn.count(size) - 50) < 5 * (300 * 5 / 36) ** 0.5 for size in sizes)


def test_images_are_interpolated_with_antialiasing():
    # Plain bilinear interpolation would take the inner two of four columns.
    row = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(16)
    image = tv_tensors.Image(row.expand(3, 64, 64))
    out = RandomScale((0.25, 0.25))(image)
    assert out.shape == (3, 16, 16)
    assert ((out > 80) & (out < 200)).all()


def test_padding_is_the_mean_colour_and_ignored():
    image, mask = blocks((8, 8))
    out, out_mask = train_transform((20, 30), scale=(1, 1))(image, mask)
    padded = out_mask == 255
    assert out.shape == (3, 20, 30)
    assert (~padded).sum() == 64
    assert (denormalize(out)[:, padded] == MEAN_COLOUR[:, None]).all()
    assert out[:, padded].abs().max() < 0.02


def test_train_transform_scales():
    areas = {
        int((out_mask != 255).sum())
        for _, (_, out_mask) in random_pairs(train_transform(100), count=10)
    }
    assert len(areas) > 5
    assert min(areas) < 24 * 40 < max(areas)


@pytest.mark.parametrize("crop_size", [0, (4, -1), (4,), (4, 4, 4)])
def test_wrong_crop_size(crop_size):
    with pytest.raises(ValueError, match="crop_size: expected a positive height and width"):
        train_transform(crop_size)


def test_train_transform_takes_scales():
    areas = {
        int((out_mask != 255).sum())
        for _, (_, out_mask) in random_pairs(train_transform(100, scales=[0.5, 2]))
    }
    assert areas == {12 * 20, 48 * 80}


@pytest.mark.parametrize("scales", [[], [0], [1, -1], [1, float("inf")], [float("nan")]])
def test_wrong_scales(scales):
    with pytest.raises(ValueError, match="scales: expected positive factors, at least one"):
        train_transform(8, scales=scales)


def test_a_range_and_a_list_of_scales():
    with pytest.raises(ValueError, match=r"^scale, scales: expected .*; got \(1, 1\) and \[1, 2\]"):
        train_transform(8, scale=(1, 1), scales=[1, 2])


@pytest.mark.parametrize("scale", [(0, 1), (2.0, 0.5), (-1, 1), (1, float("inf")), (1,)])
def test_wrong_scale(scale):
    with pytest.raises(ValueError, match="scale: expected 0 < smallest <= largest"):
        train_transform(8, scale=scale)


def item():
    image = tv_tensors.Image(torch.randint(256, (3, 4, 6), dtype=torch.uint8))
    masks = tv_tensors.Mask(torch.zeros(2, 4, 6, dtype=torch.uint8))
    masks[0, 1:3, 0:2] = 1
    masks[1, 0:1, 3:6] = 1
    boxes = [[0.0, 1.0, 2.0, 3.0], [3.0, 0.0, 6.0, 1.0]]
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(4, 6)),
        "labels": torch.tensor([3, 1]),
        "masks": masks,
        "image_id": 7,
    }
    return image, target


def test_evaluation_changes_the_type_alone():
    image, target = item()
    out, same = detection_eval_transform()(image, target)
    assert isinstance(out, tv_tensors.Image)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, tv_tensors.Image(image / 255), rtol=0, atol=1e-7)
    assert same["image_id"] == 7
    for name in ("boxes", "labels", "masks"):
        assert torch.equal(same[name], target[name])
        assert same[name].dtype == target[name].dtype


def test_training_flips_image_boxes_and_masks_together():
    image, target = item()
    flips = 0
    for seed in range(20):
        torch.manual_seed(seed)
        out, found = detection_train_transform()(image, target)
        assert found["image_id"] == 7
        assert found["labels"].tolist() == [3, 1]
        if torch.equal(out, detection_eval_transform()(image)):
            assert torch.equal(found["boxes"], target["boxes"])
            assert torch.equal(found["masks"], target["masks"])
            continue
        flips += 1
        assert torch.equal(out, detection_eval_transform()(tv_tensors.Image(image.flip(-1))))
        assert found["boxes"].tolist() == [[4, 1, 6, 3], [0, 0, 3, 1]]
        assert torch.equal(found["masks"], target["masks"].flip(-1))
    assert 5 <= flips <= 15
