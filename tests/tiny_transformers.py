"""Tiny models of transformers, with random weights, of every type that samples several levels."""

from pathlib import Path

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
)

HEADS = [AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection, AutoModel]

FOUR = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
THREE = {"out_features": ["stage2", "stage3", "stage4"]}

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}
HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "stem_channels": [3, 4, 8],
    "hidden_sizes": [8, 8, 16, 16],
    "stage_in_channels": [8, 8, 8, 16],
    "stage_mid_channels": [4, 4, 4, 4],
    "stage_out_channels": [8, 8, 16, 16],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "stage_light_block": [False, False, False, False],
    "stage_kernel_size": [3, 3, 3, 3],
}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "out_indices": [1, 2],
}
TEXT = {
    "vocab_size": 128,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
BERT = TEXT | {"model_type": "bert"}
CLIP = TEXT | {"model_type": "clip_text_model", "bos_token_id": 126, "eos_token_id": 127}

DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
    "num_queries": 6,
    "num_feature_levels": 3,
}
RT_DETR = {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 16],
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 6,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_labels": 5,
}
LW_DETR = {
    "d_model": 16,
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "group_detr": 2,
    "num_queries": 6,
    "num_labels": 5,
}
MASKS = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 6,
    "num_labels": 5,
}
#: The last part of PP-DocLayoutV2, which orders what the detector has found.
ORDER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "coordinate_size": 3,
    "shape_size": 2,
}

#: Settings of a configuration by the folder of its type.
TINY = {
    "deformable_detr": DETR | {"backbone_config": RESNET | THREE},
    "grounding_dino": DETR | {"backbone_config": SWIN | THREE, "text_config": BERT},
    "mm_grounding_dino": DETR | {"backbone_config": SWIN | THREE, "text_config": BERT},
    "rt_detr": RT_DETR | {"backbone_config": RESNET | THREE | {"model_type": "rt_detr_resnet"}},
    "rt_detr_v2": RT_DETR | {"backbone_config": RESNET | THREE | {"model_type": "rt_detr_resnet"}},
    "d_fine": RT_DETR | {"backbone_config": HGNET | THREE, "decoder_n_points": [3, 6, 2]},
    "deimv2": RT_DETR | {"backbone_config": HGNET | THREE, "decoder_n_points": [3, 6, 2]},
    "pp_doclayout_v2": RT_DETR
    | {
        "backbone_config": HGNET | THREE,
        "class_thresholds": [0.0, 0.0, 0.0, 0.0, 0.0],
        "class_order": [0, 1, 2, 3, 4],
        "reading_order_config": ORDER,
    },
    "pp_doclayout_v3": RT_DETR | {"backbone_config": HGNET | FOUR, "x4_feat_dim": 8},
    "pp_doclayout_v4": RT_DETR | {"backbone_config": HGNET | THREE},
    "lw_detr": LW_DETR
    | {
        "backbone_config": VIT | {"model_type": "lw_detr_vit", "num_windows": 4},
        "projector_scale_factors": [2.0, 0.5],
    },
    "rf_detr": LW_DETR
    | {"backbone_config": VIT | {"model_type": "rf_detr_dinov2", "num_windows": 1}},
    "omdet_turbo": {
        "backbone_config": SWIN | THREE,
        "text_config": CLIP,
        "image_size": 64,
        "apply_layernorm_after_vision_backbone": False,
        "text_projection_in_dim": 16,
        "text_projection_out_dim": 16,
        "class_embed_dim": 16,
        "task_encoder_hidden_dim": 16,
        "encoder_hidden_dim": 32,
        "vision_features_channels": [32, 32, 32],
        "encoder_in_channels": [16, 32, 64],
        "encoder_attention_heads": 2,
        "encoder_dim_feedforward": 16,
        "decoder_hidden_dim": 32,
        "decoder_num_heads": 2,
        "decoder_num_layers": 2,
        "decoder_dim_feedforward": 16,
        "num_queries": 6,
    },
    "mask2former": MASKS
    | {"backbone_config": SWIN | FOUR, "feature_size": 32, "mask_feature_size": 32},
    "oneformer": MASKS
    | {
        "backbone_config": SWIN | FOUR,
        "conv_dim": 32,
        "mask_dim": 32,
        "text_encoder_width": 32,
        "text_encoder_num_layers": 1,
        "text_encoder_vocab_size": 99,
        "text_encoder_context_length": 8,
        "text_encoder_n_ctx": 2,
        "task_seq_len": 8,
    },
}


def types_that_sample_levels():
    """The folders of all types in the installed version that have the core of Deformable DETR."""
    models = Path(transformers.__file__).parent / "models"
    for path in sorted(models.glob("*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if "grid_sample(" in text and "sampling_locations" in text:
            yield path.parent.name


def tiny_model(name, head=None, **settings):
    """A model in float64 and evaluation mode, with that head, or a detector's if it has one."""
    torch.manual_seed(0)
    model_type = name if name in CONFIG_MAPPING else name.replace("_", "-")
    config = AutoConfig.for_model(model_type, **TINY[name], **settings)
    auto = head or next(auto for auto in HEADS if type(config) in auto._model_mapping)
    model = auto.from_config(config).double().eval()
    for parameter in model.parameters():
        # Far from where offsets and weights start, which is the same for all queries.
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_inputs(name):
    """Two images, and prompts of models that want them."""
    torch.manual_seed(0)
    # Wider than high, where the model allows it.
    width = 64 if name in ("lw_detr", "rf_detr", "omdet_turbo") else 96
    inputs = {"pixel_values": torch.randn(2, 3, 64, width, dtype=torch.float64)}
    if name in ("grounding_dino", "mm_grounding_dino"):
        inputs["input_ids"] = torch.tensor([[101, 5, 6, 102]]).expand(2, -1)
    if name == "oneformer":
        inputs["task_inputs"] = torch.randint(99, (2, 8))
    if name == "omdet_turbo":
        tokens = torch.tensor([[126, 4, 5, 127]])
        inputs["classes_input_ids"] = tokens.expand(3, -1)
        inputs["classes_attention_mask"] = torch.ones(3, 4, dtype=torch.long)
        inputs["classes_structure"] = torch.tensor([1, 2])
        inputs["tasks_input_ids"] = tokens.expand(2, -1)
        inputs["tasks_attention_mask"] = torch.ones(2, 4, dtype=torch.long)
    return inputs
