"""Tiny models with random weights of every family that is tried, and the tasks that each is for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgept.manifest import SEQ2SEQ_TASK

__all__ = ["FAMILIES", "GROUPS", "Family", "place_in_group", "save_model"]

# Tasks by kind of model.
GROUPS: dict[str, tuple[str, ...]] = {
    "Decoder-only models": ("text-generation", "text-classification"),
    "Encoders": (
        "text-classification",
        "token-classification",
        "question-answering",
        "feature-extraction",
    ),
    "Encoder-decoders": (SEQ2SEQ_TASK,),
}
_DECODER, _ENCODER, _SEQ2SEQ = GROUPS
_VOCABULARY = 512


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        title: as its authors write it.
        kind: what the tests call its tiny model, or transformers' model_type.
        group: a key of GROUPS.
        config: settings of a tiny model that the tests do not have; empty where they have it.
    """

    title: str
    kind: str
    group: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """As transformers names them."""
        return GROUPS[self.group]


_SMALL: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_MULTIPLIERS = {
    "embedding_multiplier": 2.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
}
FAMILIES = (
    Family("Llama", "llama", _DECODER),
    Family("Mistral", "mistral", _DECODER, {**_SMALL, "sliding_window": None}),
    Family("Qwen 2", "qwen2", _DECODER),
    Family("Qwen 3", "qwen3", _DECODER, {**_SMALL, "head_dim": 16}),
    Family("Gemma", "gemma", _DECODER, {**_SMALL, "head_dim": 16}),
    Family("Gemma 2", "gemma2", _DECODER),
    Family("Gemma 3", "gemma3", _DECODER),
    Family("Phi 3 and 4", "phi3", _DECODER, {**_SMALL, "original_max_position_embeddings": 256}),
    # every fourth layer has no positions
    Family("SmolLM3", "smollm3", _DECODER, {**_SMALL, "num_hidden_layers": 4}),
    Family("Granite", "granite", _DECODER, {**_SMALL, **_MULTIPLIERS}),
    Family("OLMo", "olmo", _DECODER, _SMALL),
    Family("GPT-2", "gpt2", _DECODER),
    Family("GPT-Neo", "gpt_neo", _DECODER),
    Family("GPT-NeoX", "gpt_neox", _DECODER),
    Family("OPT", "opt", _DECODER),
    Family("BLOOM", "bloom", _DECODER),
    Family(
        "Mamba", "mamba", _DECODER, {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2}
    ),
    Family("BERT, MiniLM", "bert", _ENCODER),
    Family("RoBERTa", "roberta", _ENCODER),
    Family("XLM-RoBERTa", "xlm-roberta", _ENCODER),
    Family("DistilBERT", "distilbert", _ENCODER),
    Family("ALBERT", "albert", _ENCODER),
    Family("ELECTRA", "electra", _ENCODER),
    Family("DeBERTa-v2 and v3", "deberta-v2", _ENCODER),
    Family("MPNet", "mpnet", _ENCODER),
    Family("ModernBERT", "modernbert", _ENCODER),
    Family("T5", "t5", _SEQ2SEQ),
    Family(
        "mT5",  # gated feed-forward layers, as Flan-T5 has
        "mt5",
        _SEQ2SEQ,
        {
            "vocab_size": 320,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
    # the tests' is spread so far that rounding alone grows to 1e-4 of a logit
    Family(
        "BART",
        "bart",
        _SEQ2SEQ,
        {
            "vocab_size": _VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 128,
            "decoder_start_token_id": 2,
        },
    ),
    Family("mBART", "mbart", _SEQ2SEQ),
    Family("Marian", "marian", _SEQ2SEQ),
    Family("Pegasus", "pegasus", _SEQ2SEQ),
)


def place_in_group(family: Family) -> int:
    """Which of its group it is, from 0."""
    return [item for item in FAMILIES if item.group == family.group].index(family)


def save_model(family: Family, folder: Path) -> Path:
    """Save a family's tiny model as transformers saves it."""
    from tests.conftest import tiny_model, tiny_tokenizer
    from tests.seq2seq_models import tiny_seq2seq

    if family.config:
        model = _random_model(family)
    elif family.group == _SEQ2SEQ:
        model = tiny_seq2seq(family.kind)
    else:
        model = tiny_model(family.kind)
    model.save_pretrained(folder)
    if (
        family.group == _DECODER
    ):  # onnxruntime-genai's builder wants one, though nothing here is text
        tiny_tokenizer().save_pretrained(folder)
    return folder


def _random_model(family: Family) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    configs: Any = AutoConfig
    config = configs.for_model(family.kind, **family.config)
    is_seq2seq = family.group == _SEQ2SEQ
    auto: Any = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # spread so that logits differ clearly; T5's attention is not scaled
                parameter.normal_(std=0.25 if is_seq2seq else 0.15)
    return model.eval()
