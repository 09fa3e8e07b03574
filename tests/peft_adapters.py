"""Adapters as peft makes them, and what peft computes from them."""

import copy
import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

METHODS = ["prompt_tuning", "p_tuning", "prefix_tuning", "multitask", "cpt", "cartridge"]
TASK_INDEX = {"multitask": 1}  # of two tasks
TEXT = "Once upon a time, there was a little"


@contextmanager
def other_peoples_warnings() -> Iterator[None]:
    """peft and transformers warn of each other's old names, and of the positions that peft drops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def base_model(folder: Path) -> Any:
    """The frozen model in float32; callers leave it as it is."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


@functools.cache
def tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def token_ids(folder: Path, text: str = TEXT) -> list[int]:
    """A text's ids, with the special tokens that a user of peft would have."""
    return [int(token) for token in tokenizer(folder)(text).input_ids]


def make_adapter(method: str, base: Path, folder: Path) -> Path:
    """Save an adapter of a method with random values, as a training would leave it."""
    import peft
    import torch

    torch.manual_seed(11)
    with other_peoples_warnings(), torch.no_grad():
        adapted: Any = peft.get_peft_model(copy.deepcopy(base_model(base)), _config(method, base))
        for name, parameter in adapted.prompt_encoder.named_parameters():
            if method in ("prefix_tuning", "cartridge", "multitask"):
                parameter.normal_(std=0.7)
            elif method == "prompt_tuning" or "delta" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        adapted.eval().save_pretrained(str(folder))
    return folder


def load_adapter(base: Path, folder: Path) -> Any:
    """What peft makes of a folder."""
    import peft

    with other_peoples_warnings():
        return peft.PeftModel.from_pretrained(copy.deepcopy(base_model(base)), str(folder)).eval()


def peft_generate(
    adapted: Any, ids: list[int], count: int = 64, task_index: int | None = None, **options: Any
) -> list[int]:
    """New tokens of `generate`, greedy."""
    import torch

    tokens = torch.tensor([ids])
    if task_index is not None:
        options["task_ids"] = torch.tensor([task_index])
    with other_peoples_warnings():
        output = adapted.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            **options,
        )
    return [int(token) for token in output[0, len(ids) :]]


def peft_logits(adapted: Any, ids: list[int], task_index: int | None = None) -> Any:
    """Logits (tokens, vocabulary) at the text's own positions."""
    import torch

    tokens = torch.tensor([ids])
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}
    with other_peoples_warnings(), torch.no_grad():
        output = adapted(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
    return output.logits[0, -len(ids) :].float().numpy()


def _config(method: str, base: Path) -> Any:
    import peft

    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 7}
    text = "A sad story about a dog."
    if method == "prompt_tuning":
        return peft.PromptTuningConfig(
            **common,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=str(base),
        )
    if method == "p_tuning":
        return peft.PromptEncoderConfig(**common, encoder_hidden_size=32)
    if method == "prefix_tuning":
        return peft.PrefixTuningConfig(**common)
    if method == "multitask":
        return peft.MultitaskPromptTuningConfig(
            **common, num_tasks=2, num_ranks=2, prompt_tuning_init="RANDOM"
        )
    if method == "cartridge":
        return peft.CartridgeConfig(**common)
    ids = tokenizer(base)(text, add_special_tokens=False).input_ids
    ones = [1] * len(ids)
    return peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=ids, cpt_mask=ones, cpt_tokens_type_mask=ones
    )
