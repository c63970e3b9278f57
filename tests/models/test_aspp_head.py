import torch
import torch.nn.functional as F
from torch import nn

from dyngraph.evaluate import count_multiply_adds
from dyngraph.models import ASPPHead

NODES = 97 * 97


def trained(head):
    """In evaluation mode, with statistics as after training."""
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return head.eval()


def norm_relu(norm, x):
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return F.batch_norm(x, *statistics, eps=norm.eps).relu()


def test_the_formula_of_deeplabv3():
    head = trained(ASPPHead(6, rates=(2, 3), out_channels=4)).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    one, *dilated, pooled = head.convs
    branches = [norm_relu(one[1], F.conv2d(x, one[0].weight))]
    for rate, (conv, norm, _) in zip((2, 3), dilated, strict=True):
        y = F.conv2d(x, conv.weight, padding=rate, dilation=rate)
        branches.append(norm_relu(norm, y))
    mean = F.conv2d(x.mean(dim=(2, 3), keepdim=True), pooled[1].weight)
    branches.append(norm_relu(pooled[2], mean).expand(-1, -1, 9, 7))
    project, norm, _ = head.project
    want = norm_relu(norm, F.conv2d(torch.cat(branches, dim=1), project.weight))
    torch.testing.assert_close(head(x), want)


def test_the_defaults_are_the_papers_at_output_stride_8():
    head = ASPPHead(512)
    dilations = [m.dilation for m in head.modules() if getattr(m, "kernel_size", None) == (3, 3)]
    assert dilations == [(12, 12), (24, 24), (36, 36)]
    assert head.out_channels == head.eval()(torch.randn(1, 512, 5, 4)).shape[1] == 256


def test_nothing_is_dropped_out():
    head = ASPPHead(6, out_channels=8)
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(head(x), head(x))


def test_its_weights_and_multiply_adds():
    """DGMN's Table 1 prints 4.42 M and 38.45 G, which none of DeepLabv3's readings has."""
    with torch.device("meta"):
        head = ASPPHead(512)
    pool, project = 512 * 256, 5 * 256 * 256
    dense = 512 * 256 * (1 + 3 * 9) + project
    weights = sum(parameter.numel() for parameter in head.parameters() if parameter.dim() > 1)
    assert weights == dense + pool == 4_128_768
    counted = count_multiply_adds(head, 1, 512, 97, 97)
    assert counted.total == counted.dense == dense * NODES + pool
    assert round(counted.total / 1e9, 2) == 37.61
