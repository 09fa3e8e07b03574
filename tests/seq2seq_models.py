"""Tiny encoder-decoders, peft's adapters for them, and what peft generates."""

import copy
import functools
from pathlib import Path
from typing import Any

from tests.peft_adapters import other_peoples_warnings

KINDS = ("t5", "bart", "mbart", "marian", "pegasus")
METHODS = ("prompt_tuning", "p_tuning", "multitask", "prefix_tuning")
VOCABULARY = 320
# Of encoder and decoder: odd and even numbers, and a decoder that is smaller, for prefixes.
LAYERS = {"t5": (3, 3), "bart": (2, 2), "mbart": (2, 2), "marian": (3, 2), "pegasus": (2, 2)}
TOKENS = 5
TASK_INDEX = {"multitask": 1}  # of two tasks
# Ends that are likely, and what checkpoints of these families set: each kind has rules of its own.
RULES: dict[str, dict[str, Any]] = {
    "t5": {"num_beams": 1},
    "bart": {
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "min_length": 8,
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
    },
    "mbart": {"forced_bos_token_id": 7, "eos_token_id": [2, *range(20, 90)]},
    "marian": {
        "bad_words_ids": [[1], [9, 10]],
        "no_repeat_ngram_size": 2,
        "renormalize_logits": True,
        "num_beams": 3,
    },
    "pegasus": {
        "suppress_tokens": [11, 12],
        "begin_suppress_tokens": [13],
        "eos_token_id": [2, *range(30, 36)],
        "num_beams": 2,
        "length_penalty": 0.6,
    },
}


def tiny_seq2seq(kind: str) -> Any:
    """A random encoder-decoder of a few thousand parameters, spread so that logits differ clearly."""
    import torch
    import transformers as t

    bart_like: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "encoder_layers": LAYERS[kind][0],
        "decoder_layers": LAYERS[kind][1],
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 96,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    if kind == "t5":
        small: Any = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS[kind][0]}
        config = t.T5Config(vocab_size=VOCABULARY, num_heads=4, **small)
        config.decoder_start_token_id = 0
        model: Any = t.T5ForConditionalGeneration(config)
    elif kind == "bart":
        model = t.BartForConditionalGeneration(t.BartConfig(**bart_like, decoder_start_token_id=2))
    elif kind == "mbart":
        model = t.MBartForConditionalGeneration(
            t.MBartConfig(**bart_like, decoder_start_token_id=2, scale_embedding=True)
        )
    elif kind == "marian":
        marian: Any = t.MarianConfig(
            **bart_like,
            decoder_vocab_size=VOCABULARY,
            decoder_start_token_id=1,
            scale_embedding=True,
        )
        model = t.MarianMTModel(marian)
        model.final_logits_bias.normal_()
    else:
        model = t.PegasusForConditionalGeneration(
            t.PegasusConfig(**bart_like, decoder_start_token_id=1, scale_embedding=True)
        )
    spread = 0.25 if kind == "t5" else 0.5  # whose attention is not scaled
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_sinusoid = kind in ("marian", "pegasus") and "embed_positions" in name
            if parameter.dim() > 1 and not is_sinusoid:
                is_embedding = "embed" in name or "shared" in name
                parameter.normal_(std=0.3 if is_embedding else spread)
    for name, value in RULES[kind].items():
        setattr(model.generation_config, name, value)
    return model.eval()


def save_seq2seq(kind: str, folder: Path) -> Path:
    """Save a tiny model with a byte-level BPE of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tiny_seq2seq(kind).save_pretrained(folder)
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["where is my parcel and when will it come"] * 10, trainer)
    wrapper: Any = PreTrainedTokenizerFast
    wrapper(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@functools.cache
def reference(folder: Path) -> Any:
    """The frozen model in float32; callers leave it as it is."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def make_adapter(method: str, base: Path, folder: Path) -> Path:
    """Save an adapter of a method with random values, as a training would leave it."""
    import peft
    import torch

    common: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": TOKENS}
    configs: dict[str, Any] = {
        "prompt_tuning": lambda: peft.PromptTuningConfig(**common),
        "p_tuning": lambda: peft.PromptEncoderConfig(**common, encoder_hidden_size=16),
        "multitask": lambda: peft.MultitaskPromptTuningConfig(
            **common, num_tasks=2, num_ranks=2, prompt_tuning_init="RANDOM"
        ),
        "prefix_tuning": lambda: peft.PrefixTuningConfig(**common),
    }
    torch.manual_seed(11)
    with other_peoples_warnings(), torch.no_grad():
        adapted: Any = peft.get_peft_model(copy.deepcopy(reference(base)), configs[method]())
        for parameter in adapted.prompt_encoder.parameters():
            parameter.normal_(std=0.7)
        adapted.eval().save_pretrained(str(folder))
    return folder


def load_adapter(base: Path, folder: Path) -> Any:
    """What peft makes of a folder."""
    import peft

    with other_peoples_warnings():
        return peft.PeftModel.from_pretrained(copy.deepcopy(reference(base)), str(folder)).eval()


def generate(
    model: Any, ids: list[int], count: int = 64, task_index: int | None = None, **options: Any
) -> list[int]:
    """New tokens of transformers' or peft's generate, without the start token."""
    import torch

    tokens = torch.tensor([ids])
    if task_index is not None:
        options["task_ids"] = torch.tensor([task_index])
    with other_peoples_warnings(), torch.no_grad():
        output = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            **options,
        )
    return [int(token) for token in output[0, 1:]]


def logits(model: Any, ids: list[int], answer: list[int], task_index: int | None = None) -> Any:
    """Logits (answer + 1, vocabulary) of an answer that begins with the model's start token."""
    import torch

    tokens = torch.tensor([ids])
    start = model.generation_config.decoder_start_token_id
    extra = {} if task_index is None else {"task_ids": torch.tensor([task_index])}
    with other_peoples_warnings(), torch.no_grad():
        output = model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            decoder_input_ids=torch.tensor([[start, *answer]]),
            **extra,
        )
    return output.logits[0].float().numpy()
