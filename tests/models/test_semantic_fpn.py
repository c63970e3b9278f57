import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyngraph.models import PyramidSegmenter, SemanticFPN
from dyngraph.nn import RepGraphBlock


def pyramid(sizes, channels=(3, 5, 4, 2)):
    return [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]


def test_the_parts_in_order():
    head = SemanticFPN((3, 5, 4, 2), 6, channels=8).eval()
    # Odd lengths: twice the coarser map is longer than the finer.
    maps = pyramid([(13, 17), (7, 9), (4, 5), (2, 3)])
    top_down = None
    total = 0
    for level in reversed(range(4)):
        lateral = head.fpn.inner_blocks[level](maps[level])
        if top_down is not None:
            lateral = lateral + F.interpolate(top_down, lateral.shape[2:], mode="nearest")
        top_down = lateral
        x = head.fpn.layer_blocks[level](top_down)
        for layer in head.scale_heads[level]:
            if isinstance(layer, nn.Upsample):
                size = [2 * length for length in x.shape[2:]]
                x = F.interpolate(x, size, mode="bilinear", align_corners=True)
            else:
                x = layer(x)
        total = total + F.interpolate(x, (13, 17), mode="bilinear", align_corners=True)
    torch.testing.assert_close(head(maps), head.conv_seg(total))


def test_the_number_of_layers():
    head = SemanticFPN((64, 128, 320, 512), 19)
    assert [len(layers) for layers in head.scale_heads] == [1, 2, 4, 6]
    assert head.scale_heads[3][2][0].weight.shape == (128, 128, 3, 3)
    assert head.conv_seg.weight.shape == (19, 128, 1, 1)


def test_a_context_before_the_classifier():
    head = SemanticFPN((3, 5), 6, channels=8, context=RepGraphBlock(8, fusion="concat"))
    assert head.conv_seg.in_channels == 16
    assert head(pyramid([(6, 8), (3, 4)], (3, 5))).shape == (2, 6, 6, 8)


def test_a_single_map():
    assert SemanticFPN((3,), 6)(pyramid([(6, 8)], (3,))).shape == (2, 6, 6, 8)
    with pytest.raises(ValueError, match=r"^in_channels: expected at least one map"):
        SemanticFPN((), 6)


def test_a_segmenter_by_hand():
    class Backbone(nn.Module):
        def forward(self, image):
            return [F.avg_pool2d(image, 4), F.avg_pool2d(image, 8)]

    head = SemanticFPN((3, 3), 6)
    model = PyramidSegmenter(Backbone(), head, nn.Conv2d(3, 6, 1)).eval()
    image = torch.randn(2, 3, 16, 24)
    scores = model(image)
    want = F.interpolate(head(model.backbone(image)), (16, 24), mode="bilinear", align_corners=True)
    torch.testing.assert_close(scores["out"], want)
    assert scores["aux"].shape == (2, 6, 16, 24)
