"""peft's own adapters of every method, for every task, with random values as a training would leave them."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgept.manifest import SEQ2SEQ_TASK

__all__ = [
    "METHODS",
    "TASKS",
    "TASK_INDEX",
    "TOKENS",
    "Method",
    "load_adapter",
    "load_base",
    "make_adapter",
]

TOKENS = 7  # virtual ones
TASK_INDEX = 1  # of a multitask prompt, for two tasks
_CLASSES = 3


@dataclass(frozen=True)
class Method:
    """A method that learns a prompt.

    Attributes:
        title: column of the table.
        has_keys: whether it learns keys and values, not rows of the embedding.
    """

    title: str
    has_keys: bool = False


METHODS = {
    "prompt_tuning": Method("Prompt tuning"),
    "p_tuning_mlp": Method("P-tuning, MLP"),
    "p_tuning_lstm": Method("P-tuning, LSTM"),
    "multitask": Method("Multitask"),
    "cpt": Method("CPT"),
    "prefix_tuning": Method("Prefix tuning", has_keys=True),
    "cartridge": Method("CARTRIDGE", has_keys=True),
}
# peft's name of a task, and transformers' class that loads its model.
TASKS = {
    "text-generation": ("CAUSAL_LM", "AutoModelForCausalLM"),
    "text-classification": ("SEQ_CLS", "AutoModelForSequenceClassification"),
    "token-classification": ("TOKEN_CLS", "AutoModelForTokenClassification"),
    "question-answering": ("QUESTION_ANS", "AutoModelForQuestionAnswering"),
    "feature-extraction": ("FEATURE_EXTRACTION", "AutoModel"),
    SEQ2SEQ_TASK: ("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
}
# What peft does not find in a config, or finds wrong: its rows would be as wide as the layers.
_SIZES: dict[str, dict[str, int]] = {
    "distilbert": {"token_dim": 64, "num_layers": 2, "num_attention_heads": 4}
}
_NARROW_ROWS = {"albert": {"token_dim": 32}, "electra": {"token_dim": 32}, "opt": {"token_dim": 32}}


def load_base(folder: Path, task: str) -> Any:
    """The frozen model in float32 as transformers loads it for a task, with a random head."""
    import torch
    import transformers

    torch.manual_seed(5)
    options: dict[str, Any] = {"dtype": torch.float32}
    if task.endswith("classification"):  # a checkpoint may have a head of two classes
        options |= {"num_labels": _CLASSES, "ignore_mismatched_sizes": True}
    return getattr(transformers, TASKS[task][1]).from_pretrained(folder, **options).eval()


def make_adapter(base: Any, kind: str, task: str, method: str, folder: Path) -> Path:
    """Save an adapter with `save_pretrained`.

    Args:
        base: see `load_base`; left as it is.
        kind: of the model's family.
        task: as transformers names it.
        method: a key of METHODS.
        folder: to make.
    """
    import peft
    import torch

    torch.manual_seed(17)
    config = _config(kind, task, method)
    adapted: Any = peft.get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for name, parameter in adapted.prompt_encoder.named_parameters():
            if "delta" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            elif not method.startswith("p_tuning") and method != "cpt":
                parameter.normal_(std=0.5)
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(std=0.3)
    adapted.eval().save_pretrained(str(folder))
    return folder


def load_adapter(base: Any, folder: Path) -> Any:
    """What peft makes of a folder; the base is left as it is."""
    import peft

    return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def _config(kind: str, task: str, method: str) -> Any:
    import peft

    common: dict[str, Any] = {"task_type": TASKS[task][0], "num_virtual_tokens": TOKENS}
    common |= _SIZES.get(kind, {})
    if not METHODS[method].has_keys:
        common |= _NARROW_ROWS.get(kind, {})
    if (kind, task) == ("modernbert", "question-answering"):
        common["modules_to_save"] = ["classifier"]  # peft looks for qa_outputs
    if method == "prompt_tuning":
        return peft.PromptTuningConfig(**common)
    if method == "prefix_tuning":
        return peft.PrefixTuningConfig(**common)
    if method == "cartridge":
        return peft.CartridgeConfig(**common)
    if method == "multitask":
        sizes: dict[str, Any] = {"num_tasks": 2, "num_ranks": 2, "prompt_tuning_init": "RANDOM"}
        return peft.MultitaskPromptTuningConfig(**common, **sizes)
    if method == "cpt":
        ids = list(range(20, 20 + TOKENS))
        ones = [1] * TOKENS
        return peft.CPTConfig(
            task_type=TASKS[task][0], cpt_token_ids=ids, cpt_mask=ones, cpt_tokens_type_mask=ones
        )
    layers: Any = method.removeprefix("p_tuning_").upper()
    return peft.PromptEncoderConfig(
        **common, encoder_hidden_size=32, encoder_reparameterization_type=layers
    )
