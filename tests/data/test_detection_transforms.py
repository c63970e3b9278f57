import torch
from torchvision import tv_tensors

from dyngraph.data import detection_eval_transform, detection_train_transform


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
