"""Tiny image models of every family, saved with the preprocessor of their family."""

from pathlib import Path
from typing import Any

KINDS = ("vit", "deit", "dinov2", "clip", "siglip")
# Those with a text tower beside the image's, with registers, and the like; but for BEiT, without a classifier.
MORE_KINDS = (
    "beit",
    "clip-text",
    "siglip-text",
    "owlvit",
    "dinov2-registers",
    "dinov2-large",
    "vit-wide",
)
SIDE, PATCH, HIDDEN, LAYERS = 32, 8, 32, 3


def tiny_image_model(kind: str, labels: tuple[str, ...] = ()) -> Any:
    """A random model of a few thousand parameters; with labels it has a trained head's weights."""
    import torch
    import transformers as t

    common: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    if labels:
        common |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    configs = {
        "vit": (t.ViTConfig, t.ViTModel, t.ViTForImageClassification),
        "deit": (t.DeiTConfig, t.DeiTModel, t.DeiTForImageClassificationWithTeacher),
        "dinov2": (t.Dinov2Config, t.Dinov2Model, t.Dinov2ForImageClassification),
        "clip": (t.CLIPVisionConfig, t.CLIPVisionModel, t.CLIPForImageClassification),
        "siglip": (t.SiglipVisionConfig, t.SiglipVisionModel, t.SiglipForImageClassification),
        "beit": (t.BeitConfig, t.BeitModel, t.BeitForImageClassification),
    }
    text = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 99,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    both: dict[str, Any] = {"vision_config": common, "text_config": text}
    towers = {
        "clip-text": (t.CLIPConfig, t.CLIPModel, {**both, "projection_dim": 24}),
        "siglip-text": (t.SiglipConfig, t.SiglipModel, both),
        "owlvit": (t.OwlViTConfig, t.OwlViTForObjectDetection, {**both, "projection_dim": HIDDEN}),
        "owlv2": (t.Owlv2Config, t.Owlv2ForObjectDetection, {**both, "projection_dim": HIDDEN}),
        "vit-wide": (t.ViTConfig, t.ViTModel, {**common, "image_size": (SIDE, 48)}),
        # as the released ones, trained on larger pictures than they are given
        "dinov2-large": (t.Dinov2Config, t.Dinov2Model, {**common, "image_size": 2 * SIDE}),
        "dinov2-registers": (t.Dinov2WithRegistersConfig, t.Dinov2WithRegistersModel, common),
    }
    torch.manual_seed(0)
    if kind in towers:
        tower_config, tower, settings = towers[kind]
        model: Any = tower(tower_config(**settings))
    else:
        config, bare, classifier = configs[kind]
        if kind == "beit":
            common |= dict.fromkeys(
                ("use_relative_position_bias", "use_shared_relative_position_bias"), True
            )
        model = (classifier if labels else bare)(config(**common))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model.eval()


def save_image_model(kind: str, folder: Path, labels: tuple[str, ...] = ()) -> None:
    """A folder as transformers leaves it."""
    import transformers as t

    tiny_image_model(kind, labels).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    cropped: dict[str, Any] = {"size": {"shortest_edge": SIDE + 6}, "crop_size": square}
    processors = {
        "vit": t.ViTImageProcessorPil(size=square),
        "deit": t.DeiTImageProcessorPil(
            size={"height": SIDE + 6, "width": SIDE + 6}, crop_size=square
        ),
        "dinov2": t.BitImageProcessorPil(**cropped),
        "clip": t.CLIPImageProcessorPil(**cropped),
        "siglip": t.SiglipImageProcessorPil(size=square),
        "beit": t.BeitImageProcessorPil(size=square),
        "owlvit": t.OwlViTImageProcessorPil(size=square),
        "owlv2": t.Owlv2ImageProcessorPil(size=square),
    }
    if kind == "vit-wide":
        processors["vit"] = t.ViTImageProcessorPil(size={"height": SIDE, "width": 48})
    processors[kind.partition("-")[0]].save_pretrained(folder)
