"""Models for timing: random weights of a real shape, since speed does not depend on what they know."""

import shutil
from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "make_model", "make_prompts"]

_COMMON = {"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2}
_SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
_QWEN2_5_05B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
# name: transformers' class without its ending, sizes; input and output embeddings are one
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "llama-135m": ("Llama", _SMOLLM2_135M),
    "qwen2-0.5b": ("Qwen2", _QWEN2_5_05B),
}


def make_model(folder: Path, shape: str) -> Path:
    """Save a random model of one of SHAPES, or a copy of the demo's, as transformers saves it, once."""
    if (folder / "model.safetensors").is_file():
        return folder
    if shape == "demo":
        from edgept.demo.show import MODEL

        return Path(shutil.copytree(MODEL, folder))
    import torch
    import transformers

    family, sizes = SHAPES[shape]
    torch.manual_seed(0)
    config: Any = getattr(transformers, f"{family}Config")(
        **sizes, **_COMMON, tie_word_embeddings=True
    )
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def _save_tokenizer(folder: Path) -> None:
    """Any tokenizer: onnxruntime-genai's builder and client want one, though nothing here is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapper: Any = PreTrainedTokenizerFast
    wrapper(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def make_prompts(model_folder: Path, adapters: list[Path]) -> None:
    """Save peft prompt-tuning adapters of 20 random virtual tokens, as peft saves them.

    Args:
        model_folder: of the model that they are for.
        adapters: folders in one folder, which peft names by the adapters.
    """
    if all((path / "adapter_config.json").is_file() for path in adapters):
        return
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)
    model: Any = peft.get_peft_model(base, config, adapter_name=adapters[0].name)
    for index, path in enumerate(adapters[1:]):
        torch.manual_seed(index)
        model.add_adapter(path.name, config)
    model.save_pretrained(adapters[0].parent)
