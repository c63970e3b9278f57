import pytest
import torch
import torchvision
from torch import nn

from dyngraph.models import DilatedResNet, SmallTrunk


def plain_resnet(name):
    """With statistics as after training, without which dead units would hide differences."""
    resnet = getattr(torchvision.models, name)().eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return resnet


def dilated_of(resnet, name):
    trunk = DilatedResNet(name).eval()
    state = {key: value for key, value in resnet.state_dict().items() if not key.startswith("fc.")}
    trunk.load_state_dict(state, strict=True)
    return trunk


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_names_are_those_of_torchvision(name):
    with torch.device("meta"):
        resnet = getattr(torchvision.models, name)()
        trunk = DilatedResNet(name)
    expected = {
        key: value.shape for key, value in resnet.state_dict().items() if not key.startswith("fc.")
    }
    assert {key: value.shape for key, value in trunk.state_dict().items()} == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_second_pixel_is_that_of_the_strided_network(name):
    resnet = plain_resnet(name)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        got = dilated_of(resnet, name)(image)
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        aux = resnet.layer3(resnet.layer2(resnet.layer1(x)))
        out = resnet.layer4(aux)
    assert got["aux"].shape[2:] == got["out"].shape[2:] == (9, 13)
    # The same sums in another order, through up to 50 layers.
    for dense, strided in ((got["aux"][..., ::2, ::2], aux), (got["out"][..., ::4, ::4], out)):
        scale = strided.abs().max().item()
        torch.testing.assert_close(dense, strided, atol=1e-5 * scale, rtol=0)


def test_resnet50_is_the_dilated_one_of_torchvision():
    resnet = plain_resnet("resnet50")
    dilated = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    dilated.load_state_dict(resnet.state_dict())
    image = torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        got = dilated_of(resnet, "resnet50")(image)
        x = dilated.maxpool(dilated.relu(dilated.bn1(dilated.conv1(image))))
        aux = dilated.layer3(dilated.layer2(dilated.layer1(x)))
        assert torch.equal(got["aux"], aux)
        assert torch.equal(got["out"], dilated.layer4(aux))


def test_resnet101_runs():
    with torch.no_grad():
        features = DilatedResNet("resnet101").eval()(torch.randn(1, 3, 33, 33))
    assert features["aux"].shape == (1, 1024, 5, 5)
    assert features["out"].shape == (1, 2048, 5, 5)


def test_unknown_resnet():
    with pytest.raises(ValueError, match=r"^backbone: expected one of .* got 'resnet152'"):
        DilatedResNet("resnet152")


def test_the_small_trunk():
    trunk = SmallTrunk()
    assert trunk(torch.randn(2, 3, 33, 64)).shape == (2, 48, 9, 16)
    assert SmallTrunk(8)(torch.randn(2, 3, 8, 8)).shape == (2, 8, 2, 2)
    assert sum(isinstance(m, nn.Conv2d) for m in trunk.modules()) == 6


def test_the_small_trunk_sees_39_pixels():
    trunk = SmallTrunk(4).eval()
    for parameter in trunk.parameters():
        # No unit is dead and no path cancels another.
        parameter.data.abs_().add_(0.01)
    image = torch.rand(1, 3, 80, 80, requires_grad=True)
    trunk(image)[0, :, 10, 10].sum().backward()
    seen = image.grad[0].abs().sum(dim=0) > 0
    rows, columns = seen.nonzero().unbind(1)
    # Node 10 of stride 4 is centred on pixel 40.
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (40 - 19, 40 + 19)
    assert seen.sum() == 39 * 39


def dilations(stage):
    """The dilations of the 3x3 convolutions of each block."""
    return [
        [m.dilation[0] for m in block.modules() if getattr(m, "kernel_size", None) == (3, 3)]
        for block in stage
    ]


def test_multi_grid_is_that_of_deeplabv3():
    """The unit rate of res5, 4 at output stride 8, times (1, 2, 4)."""
    trunk = DilatedResNet("resnet50", multi_grid=(1, 2, 4))
    assert dilations(trunk.layer4) == [[4], [8], [16]]
    assert dilations(trunk.layer3) == dilations(DilatedResNet("resnet50").layer3)
    assert all(block.conv2.padding == block.conv2.dilation for block in trunk.layer4)
    assert trunk.eval()(torch.randn(1, 3, 33, 33))["out"].shape == (1, 2048, 5, 5)


def test_multi_grid_of_basic_blocks():
    trunk = DilatedResNet("resnet18", multi_grid=(1, 2))
    assert dilations(trunk.layer4) == [[4, 4], [8, 8]]
    assert trunk.eval()(torch.randn(1, 3, 33, 33))["out"].shape == (1, 512, 5, 5)


@pytest.mark.parametrize("factors", [(1, 2, 4), (1,), (0, 1)])
def test_multi_grids_that_do_not_fit(factors):
    with pytest.raises(ValueError, match=r"^multi_grid: expected 2 positive factors, got \("):
        DilatedResNet("resnet18", multi_grid=factors)


def test_without_multi_grid_the_first_block_has_half_the_dilation():
    assert dilations(DilatedResNet("resnet50").layer4) == [[2], [4], [4]]
    assert dilations(DilatedResNet("resnet18").layer4) == [[2, 4], [4, 4]]
