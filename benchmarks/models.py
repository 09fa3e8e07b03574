"""Models for timing: random weights of a real shape, since speed does not depend on what they know."""

from pathlib import Path
from typing import Any

__all__ = ["VOCABULARY", "make_llama_135m", "make_prompts"]

VOCABULARY = 49152


def make_llama_135m(folder: Path) -> Path:
    """Save a random Llama of SmolLM2-135M's shape (134.5M parameters), once."""
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
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


def make_prompts(model_folder: Path, folder: Path, count: int) -> list[Path]:
    """Save peft prompt-tuning adapters of 20 random virtual tokens, as peft saves them."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    adapters = [folder / f"task-{index}" for index in range(count)]
    if all((path / "adapter_config.json").is_file() for path in adapters):
        return adapters
    base: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)
    model: Any = peft.get_peft_model(base, config, adapter_name="task-0")
    for index in range(1, count):
        torch.manual_seed(index)
        model.add_adapter(f"task-{index}", config)
    model.save_pretrained(folder)
    return adapters
