import pytest
import torch

from dyngraph.viz import draw_detections

PALETTE = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8)


def objects(**others):
    mask = torch.zeros(2, 1, 100, 160)
    mask[0, :, 5:35, 5:150] = 0.9
    mask[1, :, 50:90, 30:150] = 0.4
    return {
        "boxes": torch.tensor([[5.0, 5, 150, 35], [30, 50, 150, 90]]),
        "labels": torch.tensor([1, 2]),
        "masks": mask,
    } | others


def grey():
    return torch.full((3, 100, 160), 100, dtype=torch.uint8)


def test_objects_are_drawn_in_the_colours_of_their_classes():
    image = grey()
    picture = draw_detections(image, objects(), ("cat", "dog"), PALETTE)
    assert torch.equal(image, grey())
    assert picture.shape == image.shape
    assert picture.dtype == torch.uint8
    assert picture[:, 30, 5].tolist() == [255, 0, 0]
    assert picture[:, 80, 30].tolist() == [0, 255, 0]
    # Half of the colour inside of a mask, where it is likelier than not. Names are at upper left.
    assert picture[:, 30, 140].tolist() == [177, 50, 50]
    assert picture[:, 80, 140].tolist() == [100, 100, 100]


def test_what_is_unlikely_is_not_drawn():
    scores = torch.tensor([0.6, 0.4])
    picture = draw_detections(grey(), objects(scores=scores), ("cat", "dog"), PALETTE)
    assert (picture != 100).any()
    assert (picture[:, 45:] == 100).all()
    none = draw_detections(grey(), objects(scores=scores), ("cat", "dog"), PALETTE, threshold=0.7)
    assert torch.equal(none, grey())


def test_an_image_of_another_type_is_named():
    with pytest.raises(ValueError, match=r"^image: expected \[3, H, W\], uint8, got .*float32"):
        draw_detections(grey().float(), objects(), ("cat", "dog"), PALETTE)
