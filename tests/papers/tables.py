"""The tables of both papers, typed from their printed versions, and the recipe of each row."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of a table. Numbers are strings as they are printed."""

    paper: str
    table: str
    name: str
    file: str
    numbers: tuple[str, ...]
    settings: dict[str, Any]


REPGRAPH, DGMN = "RepGraph", "DGMN"
RESNET = {"network.backbone": "resnet50", "network.weights_backbone": "IMAGENET1K_V1"}
RESNET101 = {**RESNET, "network.backbone": "resnet101"}
CONTEXT = "network.context"


def block(name: str, **arguments: Any) -> dict[str, Any]:
    """The settings of a context block."""
    return {
        f"{CONTEXT}.class_path": f"dyngraph.nn.{name}",
        **{f"{CONTEXT}.init_args.{key}": value for key, value in arguments.items()},
    }


def brg(**arguments: Any) -> dict[str, Any]:
    return block("BottleneckRepGraphBlock", **{"fusion": "concat", **arguments})


def dgmn(**arguments: Any) -> dict[str, Any]:
    return block("DGMNBlock", **arguments)


# --- RepGraph, Section 4 -------------------------------------------------------------------------

SGD = {"model.momentum": 0.9, "trainer.sync_batchnorm": True, "network.aux_loss": True}
SCALES = {"data.scales": [0.75, 1.0, 1.25, 1.5, 1.75, 2.0], "network.head_channels": 512}
ADE20K = {
    **SGD, **SCALES, **RESNET,
    "data.dataset": "ade20k",
    "data.crop_size": [520, 520],
    "data.batch_size": 16,
    "model.lr": 0.02,
    "model.weight_decay": 0.0001,
    "model.inference.window": [520, 520],
    "trainer.max_steps": 100000,
}  # fmt: skip
SINGLE_SCALE = {"model.inference.scales": None, "model.inference.flip": None}
ABLATION = {**ADE20K, **SINGLE_SCALE}
MULTI_SCALE = {
    **ADE20K,
    "model.inference.scales": [0.5, 0.75, 1.0, 1.25],
    "model.inference.flip": True,
}
PASCAL_CONTEXT = {**MULTI_SCALE, "data.dataset": "pascal_context", "trainer.max_steps": 80000}
CITYSCAPES = {
    **MULTI_SCALE,
    "data.dataset": "cityscapes",
    "data.crop_size": [769, 769],
    "data.batch_size": 8,
    "model.lr": 0.01,
    "model.weight_decay": 0.0005,
    "model.inference.window": [769, 769],
    "model.inference.scales": [0.5, 0.75, 1.0, 1.5],
    "trainer.max_steps": 40000,
}


def ablation(table: str, name: str, file: str, *numbers: str, **settings: Any) -> Row:
    return Row(REPGRAPH, table, name, f"repgraph/{file}", numbers, {**ABLATION, **settings})


def inserted(*places: str) -> dict[str, Any]:
    """Bottleneck blocks before these modules, which start as the identity."""
    want = {
        "class_path": "dyngraph.nn.BottleneckRepGraphBlock", "init_args": {"zero_init": True}
    }  # fmt: skip
    return {CONTEXT: None, "network.insert_before": {place: want for place in places}}


BASELINE = ("36.48", "77.57")
NONLOCAL = "NonLocalBlock"
# fmt: off
REPGRAPH_ROWS = [
    ablation("1a", "R50 baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation(
        "1a", "NL baseline", "nonlocal_concat", "40.97", "79.96", **block(NONLOCAL, fusion="concat")
    ),
    ablation("1a", "S = 1", "samples_1", "42.53", "80.08", **brg(num_samples=1)),
    ablation("1a", "S = 9", "ade20k", "43.12", "80.27", **brg()),
    ablation("1a", "S = 12", "samples_12", "42.60", "80.43", **brg(num_samples=12)),
    ablation("1a", "S = 15", "samples_15", "42.99", "80.45", **brg(num_samples=15)),
    ablation("1a", "S = 18", "samples_18", "42.85", "80.44", **brg(num_samples=18)),
    ablation("1a", "S = 27", "samples_27", "43.06", "80.64", **brg(num_samples=27)),
    ablation("1b", "baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation(
        "1b", "NL, sum", "nonlocal_sum", "40.3", "79.96", **block(NONLOCAL, fusion="sum")
    ),
    ablation(
        "1b", "NL, concat", "nonlocal_concat", "40.97", "80.01", **block(NONLOCAL, fusion="concat")
    ),
    ablation(
        "1b", "Simple, sum", "simple_sum", "42.61", "80.191", **block("RepGraphBlock", fusion="sum")
    ),
    ablation(
        "1b", "Simple, concat", "simple_concat", "42.98", "80.41",
        **block("RepGraphBlock", fusion="concat"),
    ),
    ablation("1b", "Bottleneck, sum", "bottleneck_sum", "42.67", "80.46", **brg(fusion="sum")),
    ablation("1b", "Bottleneck, concat", "ade20k", "43.12", "80.27", **brg()),
    ablation("1c", "baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation("1c", "res2", "res2", "41.52", "79.67", **inserted("layer1.2")),
    ablation("1c", "res3", "res3", "41.59", "79.97", **inserted("layer2.3")),
    ablation("1c", "res4", "res4", "41.25", "79.69", **inserted("layer3.5")),
    ablation("1c", "res5", "res5", "41.34", "79.89", **inserted("layer4.2")),
    ablation("1d", "baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation("1d", "1 layer", "res3", "41.59", "79.97", **inserted("layer2.3")),
    ablation(
        "1d", "3 layers", "layers_3", "41.86", "79.85",
        **inserted("layer2.3", "layer3.5", "layer4.2"),
    ),
    ablation(
        "1d", "5 layers", "layers_5", "41.76", "79.89",
        **inserted("layer2.3", "layer3.4", "layer3.5", "layer4.1", "layer4.2"),
    ),
    # Table 2 has costs of blocks, without an experiment: the files train the blocks.
    ablation(
        "2", "NL", "nonlocal_concat", "601.4", "146.65", **block(NONLOCAL, fusion="concat")
    ),
    ablation("2", "DANet", "danet", "785.01", "279.56", **{CONTEXT: "danet"}),
    ablation(
        "2", "SRG", "simple_concat", "45.31", "60.89", **block("RepGraphBlock", fusion="concat")
    ),
    ablation("2", "BRG", "ade20k", "34.96", "25.96", **brg()),
    ablation("3a", "baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation("3a", "g_s = 1", "ade20k", "43.12", "80.27", **brg()),
    ablation("3a", "g_s = 5", "grid_5", "42.40", "80.17", **brg(cell_size=5)),
    ablation("3a", "g_s = 13", "grid_13", "41.82", "80.01", **brg(cell_size=13)),
    ablation("3a", "g_s = 65", "grid_65", "41.23", "79.73", **brg(cell_size=65)),
    ablation("3b", "baseline", "fcn", *BASELINE, **{CONTEXT: None}),
    ablation("3b", "g_c = 1", "ade20k", "43.12", "80.27", **brg()),
    ablation("3b", "g_c = 4", "groups_4", "42.78", "80.20", **brg(groups=4)),
    ablation("3b", "g_c = 8", "groups_8", "43.01", "80.32", **brg(groups=8)),
    ablation("3b", "g_c = 16", "groups_16", "42.96", "80.19", **brg(groups=16)),
    ablation("3b", "g_c = 32", "groups_32", "42.38", "80.18", **brg(groups=32)),
    Row(
        REPGRAPH, "4", "RGNet, ResNet-50", "repgraph/ade20k_resnet50_multi_scale",
        ("44.02", "81.12"), {**MULTI_SCALE, **brg()},
    ),
    Row(
        REPGRAPH, "4", "RGNet, ResNet-101", "repgraph/ade20k_resnet101_multi_scale",
        ("45.8", "81.76"), {**MULTI_SCALE, **RESNET101, **brg()},
    ),
    Row(
        REPGRAPH, "5", "RGNet, ResNet-101", "repgraph/cityscapes_test", ("81.5",),
        {**CITYSCAPES, **RESNET101, **brg(), "data.train_split": "trainval"},
    ),
    Row(
        REPGRAPH, "6", "RGNet, ResNet-101", "repgraph/pascal_context", ("53.9",),
        {**PASCAL_CONTEXT, **RESNET101, **brg()},
    ),
]
# fmt: on

# --- COCO: Section 5 of RepGraph, Section 4 and the supplement (A.2.3) of DGMN -------------------

COCO = {
    **RESNET,
    "task": "detection",
    "data.batch_size": 16,
    "network.min_size": 800,
    "network.max_size": 1333,
    "model.lr": 0.02,
    "model.warmup_steps": 500,
    "model.warmup_factor": 0.3,
    "model.decay_steps": [60000, 80000],
    "trainer.max_steps": 90000,
}
C5 = {"network.context_at": "c5"}


def coco(
    table: str, name: str, file: str, *numbers: str, paper: str = DGMN, **settings: Any
) -> Row:
    settings = {"network.context_at": None, **settings}
    return Row(paper, table, name, f"coco/{file}", numbers, {**COCO, **settings})


def named(context: str, **settings: Any) -> dict[str, Any]:
    return {CONTEXT: context, **settings}


NO_CONTEXT = {CONTEXT: None}
RATES = {"rates": [1, 4, 8, 12], "fusion": "sum"}
BACKBONE101 = {"network.backbone": "resnet101"}
RESNEXT = {"network.backbone": "resnext101_32x8d"}
# fmt: off
COCO_ROWS = [
    coco(
        "7", "baseline", "resnet50", "38.0", "59.6", "41.0", "34.6", "56.4", "36.5",
        paper=REPGRAPH, **NO_CONTEXT,
    ),
    coco(
        "7", "R50 + 1 NL", "nonlocal_resnet50", "39.0", "61.1", "41.9", "35.5", "58.0", "37.4",
        paper=REPGRAPH, **named("nonlocal"),
    ),
    coco(
        "7", "R50 + 1 RGL", "repgraph_resnet50", "39.6", "61.4", "42.1", "36.0", "57.9", "37.9",
        paper=REPGRAPH, **named("bottleneck_repgraph"),
    ),
    coco(
        "2", "Mask R-CNN baseline", "resnet50", "37.8", "59.1", "41.4", "34.4", "55.8", "36.6",
        **NO_CONTEXT,
    ),
    coco(
        "2", "GCNet", "gcnet_resnet50", "38.1", "60.0", "41.2", "34.9", "56.5", "37.2",
        **named("gcnet"),
    ),
    coco(
        "2", "Deformable message passing", "deformable_message_passing_resnet50",
        "38.7", "60.4", "42.4", "35.0", "56.9", "37.4",
        **dgmn(**RATES, affinity=False, filters=False),
    ),
    coco(
        "2", "Non-local", "nonlocal_resnet50", "39.0", "61.1", "41.9", "35.5", "58.0", "37.4",
        **named("nonlocal"),
    ),
    coco("2", "CCNet", "ccnet_resnet50", "39.3", "36.1", **named("ccnet")),
    coco(
        "2", "DGMN", "dgmn_resnet50", "39.5", "61.0", "43.3", "35.7", "58.0", "37.9",
        **named("dgmn"),
    ),
    coco(
        "2", "GCNet (C5)", "gcnet_c5_resnet50", "38.7", "61.1", "41.7", "35.2", "57.4", "37.4",
        **named("gcnet", **C5),
    ),
    coco(
        "2", "Deformable (C5)", "deformable_c5_resnet50", "39.9", "34.9",
        **named("deformable", **C5),
    ),
    coco(
        "2", "DGMN (C5)", "dgmn_c5_resnet50", "40.2", "62.0", "43.4", "36.0", "58.3", "38.2",
        **named("dgmn", **C5),
    ),
    coco(
        "4", "ResNet-50 baseline", "resnet50", "38.0", "59.7", "41.5", "34.6", "56.5", "36.6",
        **NO_CONTEXT,
    ),
    coco(
        "4", "ResNet-50, DGMN (C5)", "dgmn_c5_resnet50",
        "40.2", "62.5", "43.9", "36.2", "59.1", "38.4", **named("dgmn", **C5),
    ),
    coco(
        "4", "ResNet-50, DGMN (C4, C5)", "dgmn_c4_c5_resnet50",
        "41.0", "63.2", "44.9", "36.8", "59.8", "39.1",
        **named("dgmn", **{"network.context_at": "c4_c5"}),
    ),
    coco(
        "4", "ResNet-101 baseline", "resnet101", "40.2", "61.9", "44.0", "36.2", "58.6", "38.4",
        **NO_CONTEXT, **BACKBONE101,
    ),
    coco(
        "4", "ResNet-101, DGMN (C5)", "dgmn_c5_resnet101",
        "41.9", "64.1", "45.9", "37.6", "60.9", "40.0", **named("dgmn", **C5, **BACKBONE101),
    ),
    coco(
        "4", "ResNeXt-101 baseline", "resnext101", "42.6", "64.9", "46.6", "38.3", "61.6", "40.8",
        **NO_CONTEXT, **RESNEXT,
    ),
    coco(
        "4", "ResNeXt-101, DGMN (C5)", "dgmn_c5_resnext101",
        "44.3", "66.8", "48.4", "39.5", "63.3", "42.1", **named("dgmn", **C5, **RESNEXT),
    ),
    coco("7", "Mask R-CNN baseline", "resnet50", "37.8", "34.4", **NO_CONTEXT),
    coco(
        "7", "rates 1, 4, 8, 12, G = 0, DA", "dgmn_c5_da", "39.4", "35.6",
        **dgmn(**RATES, groups=0, walk=False), **C5,
    ),
    coco(
        "7", "rates 1, 4, 8, 12, G = 0, DA + DS", "dgmn_c5_da_ds", "39.9", "35.9",
        **dgmn(**RATES, groups=0), **C5,
    ),
    coco(
        "7", "rates 1, 4, 8, G = 2", "dgmn_c5_rates_1_4_8_groups_2", "39.5", "35.6",
        **dgmn(rates=[1, 4, 8], fusion="sum", groups=2), **C5,
    ),
    coco(
        "7", "rates 1, 4, 8, G = 4", "dgmn_c5_rates_1_4_8", "39.8", "35.9",
        **dgmn(rates=[1, 4, 8], fusion="sum", groups=4), **C5,
    ),
    coco(
        "7", "rates 1, 4, 8, 12, G = 4", "dgmn_c5_resnet50", "40.2", "36.0",
        **named("dgmn", **C5),
    ),
    coco(
        "8", "ResNet-101 baseline", "resnet101", "40.1", "61.7", "44.0", "36.2", "58.1", "38.3",
        **NO_CONTEXT, **BACKBONE101,
    ),
    coco(
        "8", "ResNet-101, DGMN (C5)", "dgmn_c5_resnet101",
        "41.7", "63.8", "45.7", "37.4", "60.4", "39.8", **named("dgmn", **C5, **BACKBONE101),
    ),
    coco(
        "8", "ResNeXt-101 baseline", "resnext101", "42.2", "63.9", "46.1", "37.8", "60.5", "40.2",
        **NO_CONTEXT, **RESNEXT,
    ),
    coco(
        "8", "ResNeXt-101, DGMN (C5)", "dgmn_c5_resnext101",
        "43.7", "65.9", "47.8", "38.7", "62.1", "41.3", **named("dgmn", **C5, **RESNEXT),
    ),
    coco(
        "9", "Mask R-CNN, ResNet-101-FPN", "resnet101",
        "40.2", "61.9", "44.0", "36.2", "58.6", "38.4", **NO_CONTEXT, **BACKBONE101,
    ),
    coco(
        "9", "Mask R-CNN, ResNeXt-101-FPN", "resnext101",
        "42.6", "64.9", "46.6", "38.3", "61.6", "40.8", **NO_CONTEXT, **RESNEXT,
    ),
    coco(
        "9", "DGMN (ours), ResNeXt-101-FPN", "dgmn_c5_resnext101",
        "44.3", "66.8", "48.4", "39.5", "63.3", "42.1", **named("dgmn", **C5, **RESNEXT),
    ),
]
# fmt: on

# --- DGMN on Cityscapes: Section 4 and the supplement (A.2.2, A.3) --------------------------------

DGMN_CITYSCAPES = {
    **RESNET101,
    "data.dataset": "cityscapes",
    "data.crop_size": [769, 769],
    "data.batch_size": 8,
    "data.scale": [1.0, 1.0],
    "data.scales": None,
    "network.head_channels": 512,
    "model.lr": 0.01,
    "model.momentum": 0.9,
    "model.weight_decay": 0.0001,
    "trainer.max_steps": 40000,
    "trainer.sync_batchnorm": True,
}
ONE_SCALE = {"model.inference": None}
ALL_RATES = dgmn(rates=[1, 6, 12, 24, 36], groups=4)
US = dgmn(rates=[1, 6, 12, 24, 36], walk=False)
OHEM = {"model.ohem_threshold": 0.7}
MULTI_GRID = {
    "network.backbone": {
        "class_path": "dyngraph.models.DilatedResNet",
        "init_args": {
            "name": "resnet101", "weights": "IMAGENET1K_V1", "multi_grid": [1, 2, 4]
        },
    },
    "network.weights_backbone": None,
}  # fmt: skip


def city(table: str, name: str, file: str, *numbers: str, **settings: Any) -> Row:
    common = {**DGMN_CITYSCAPES, **ONE_SCALE, **settings}
    return Row(DGMN, table, name, f"dgmn/{file}", numbers, common)


# fmt: off
DGMN_ROWS = [
    city("1", "Dilated FCN", "fcn", "75.0", **NO_CONTEXT),
    city(
        "1", "Deformable", "deformable", "78.2", "1.31 M", "12.34 G",
        **dgmn(rates=[1, 6, 12, 24], affinity=False, filters=False),
    ),
    city("1", "ASPP", "aspp", "78.9", "4.42 M", "38.45 G", **named("aspp")),
    city(
        "1", "Non-local", "nonlocal", "79.0", "2.88 M", "73.33 G",
        **{f"{CONTEXT}.class_path": "dyngraph.models.NonLocalHead"},
    ),
    city(
        "1", "DA", "da", "76.5", "0.57 M", "5.32 G", **dgmn(rates=[1], filters=False, walk=False)
    ),
    city("1", "DA + DW", "da_dw", "79.1", "0.73 M", "6.88 G", **dgmn(rates=[1], walk=False)),
    city("1", "DA + DW + DS", "cityscapes", "80.4", "2.61 M", "24.55 G", **ALL_RATES),
    city(
        "3", "DGMN (ours)", "cityscapes_test", "81.6",
        **{
            **dgmn(rates=[1, 6, 12, 24, 36], walk=True), **OHEM, **MULTI_GRID,
            "data.train_split": "trainval", "model.inference": ..., "model.inference.flip": True,
        },
    ),
    city("5", "FCN with DGMN", "us", "79.2", **US),
    city("5", "OHEM", "ohem", "79.7", **US, **OHEM),
    city("5", "OHEM, Multi-Grid", "multi_grid", "80.3", **US, **OHEM, **MULTI_GRID),
    city(
        "5", "OHEM, Multi-Grid, MS", "multi_scale", "81.1",
        **{**US, **OHEM, **MULTI_GRID, "model.inference": ..., "model.inference.flip": True},
    ),
    city("6", "Dilated FCN", "fcn", "75.0", **NO_CONTEXT),
    city("6", "rates 1, DA", "da", "76.5", **dgmn(rates=[1], filters=False, walk=False)),
    city("6", "rates 1, DA + DW", "da_dw", "79.1", **dgmn(rates=[1], walk=False)),
    city("6", "rates 1, 1, 1, 1", "rates_1_1_1_1", "79.2", **dgmn(rates=[1, 1, 1, 1])),
    city("6", "rates 1, 6, 12", "rates_1_6_12", "79.7", **dgmn(rates=[1, 6, 12])),
    city("6", "rates 1, 6, 12, 24, 36", "cityscapes", "80.4", **ALL_RATES),
]
# fmt: on

ROWS = [*REPGRAPH_ROWS, *COCO_ROWS, *DGMN_ROWS]
