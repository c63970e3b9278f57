import pytest
import torch

from dyngraph.models import mask_rcnn
from dyngraph.viz import draw_detections, draw_detector_listening

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


@pytest.mark.parametrize(
    ("context", "names"), [(None, []), ("bottleneck_repgraph", ["nodes"]), ("dgmn", ["rates"])]
)
@pytest.mark.parametrize("num_boxes", [0, 2])
def test_what_the_middles_of_boxes_listen_to(context, names, num_boxes):
    model = mask_rcnn("small", context, context_at="c5", num_classes=2, min_size=64, max_size=96)
    boxes = torch.tensor([[5.0, 5, 25, 15], [30, 20, 60, 40]])[:num_boxes]
    figures = dict(draw_detector_listening(model.eval(), torch.rand(3, 40, 60), boxes))
    assert list(figures) == names
    for figure in figures.values():
        (axes,) = figure.axes
        # The image is resized to 64x96, which needs no padding.
        assert axes.images[0].get_array().shape == (64, 96, 3)
        if context == "bottleneck_repgraph":
            # The samples and two crosses for each pixel.
            crosses = axes.collections[1::3]
            middles = [(48, 32)] if num_boxes == 0 else [(24, 16), (72, 48)]
            found = [tuple(points.get_offsets()[0]) for points in crosses]
            assert found == middles
