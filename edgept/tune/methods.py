"""The methods, each by peft: how its prompt starts, what it is fed, and what it leaves behind."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch

from edgept.errors import UsageError
from edgept.manifest import SEQ2SEQ_TASK
from edgept.peft_tensors import combine_multitask, decoder_layers, rows_to_kv, saved_layers
from edgept.tune.backbone import Backbone
from edgept.tune.batches import Batch
from edgept.tune.encode import Example
from edgept.tune.head import head_tensors, put_head
from edgept.tune.settings import Settings

__all__ = ["PEFT_NAMES", "adapt", "export_tensors", "inputs", "peft_config", "prefix_rows"]

PEFT_NAMES = {
    "prompt-tuning": "prompt_tuning",
    "p-tuning": "p_tuning",
    "prefix-tuning": "prefix_tuning",
    "multitask": "multitask_prompt_tuning",
    "cpt": "cpt",
    "head": "head",
    "vpt-shallow": "vpt_shallow",
    "vpt-deep": "vpt_deep",
    "coop": "coop",
}
# what goes on from a prompt file is put there afterwards, see start.py
_PEFT_TASKS = {
    "text-generation": "CAUSAL_LM",
    SEQ2SEQ_TASK: "SEQ_2_SEQ_LM",
    "text-classification": "SEQ_CLS",
}
_PEFT_INITS = {"text": "TEXT", "vocab": "SAMPLE_VOCAB", "random": "RANDOM", "prompt": "RANDOM"}

# CPT marks what each token of its context is; numbers that 4 divides are answers, which stay fixed
# and are learnt from (Blau et al. 2024, https://arxiv.org/abs/2410.17222).
_CPT_FORMAT, _CPT_INPUT, _CPT_ANSWER = 1, 2, 4
# How far a token may move from its word, in embeddings' root mean squares. peft's fixed 0.1 is this for
# one of 0.02; on stories260K (0.31) it let the loss move by 0.003 only.
_CPT_ROOM = 5.0


def adapt(
    backbone: Backbone,
    settings: Settings,
    examples: Sequence[Example],
    num_tasks: int,
    num_labels: int = 0,
) -> Any:
    """Put a fresh prompt in front of the frozen model, and a fresh head behind a classifier.

    Args:
        backbone: the frozen model.
        settings: method, size, start and seed.
        examples: the training data, from which CPT takes its context.
        num_tasks: of multitask prompt tuning.
        num_labels: classes of the head; 0 without one.

    Returns:
        A peft model, whose prompt and head alone have gradients; to train a head alone, the model.
    """
    torch.manual_seed(settings.seed)
    if num_labels:
        put_head(backbone, num_labels)
    if settings.method == "head":  # linear probing, which peft has no method for
        return backbone.model
    config = peft_config(backbone, settings, examples, num_tasks)
    adapted: Any = peft.get_peft_model(backbone.model, config)
    kind, text = settings.initial()
    if settings.method == "prefix-tuning" and kind in ("kv", "vocab"):
        _start_from_cache(adapted, backbone, text, settings.virtual_tokens)
    return adapted


def peft_config(
    backbone: Backbone, settings: Settings, examples: Sequence[Example], num_tasks: int
) -> Any:
    """The method's configuration in peft."""
    kind, text = settings.initial()
    # under SEQ_CLS, peft copies the module classifier or score and trains the copy (modules_to_save)
    common: dict[str, Any] = {
        "task_type": _PEFT_TASKS[backbone.task],
        "num_virtual_tokens": settings.virtual_tokens,
    }
    # peft takes the layers' width, where ELECTRA's, ALBERT's and some of OPT's rows are narrower
    width = backbone.model.get_input_embeddings().embedding_dim
    if settings.method == "cpt":
        ids, types = _context(backbone, settings, examples)
        room = _CPT_ROOM * backbone.embedding_rms
        config = peft.CPTConfig(
            task_type="CAUSAL_LM",
            opt_projection_epsilon=room,
            opt_projection_format_epsilon=room,
            cpt_token_ids=ids,
            cpt_mask=[1] * len(ids),
            cpt_tokens_type_mask=types,
        )
        config.token_dim = width  # which it takes in __init__ and forgets
        return config
    if settings.method == "prefix-tuning":
        if backbone.source.is_seq2seq:
            layers, heads, head_dim = _decoder_sizes(backbone.model.config)
            # of an even number peft gives two layers of the decoder the same keys and values
            common["num_layers"] = layers | 1
            common |= {"num_attention_heads": heads, "token_dim": heads * head_dim}
        return peft.PrefixTuningConfig(**common)
    if backbone.source.is_seq2seq:
        common["num_transformer_submodules"] = 1  # rows for the encoder, and none for the decoder
    common["token_dim"] = width
    # which rows do not depend on, but peft asks for where it cannot read it (DistilBERT)
    common |= {"num_layers": 1, "num_attention_heads": 1}
    if settings.method == "p-tuning":
        return peft.PromptEncoderConfig(**common)
    start: dict[str, Any] = {"prompt_tuning_init": _PEFT_INITS[kind]}
    if kind == "text":
        start |= {
            "prompt_tuning_init_text": text,
            "tokenizer_name_or_path": backbone.source.location,
        }
    if settings.method == "multitask":
        return peft.MultitaskPromptTuningConfig(**common, **start, num_tasks=num_tasks)
    return peft.PromptTuningConfig(**common, **start)


def inputs(batch: Batch, adapted: Any, settings: Settings, *, labels: bool) -> dict[str, Any]:
    """What the method's forward pass takes of a batch."""
    given: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if labels:
        given["labels"] = batch["labels"]
    if settings.method == "multitask":
        given["task_ids"] = batch["task_ids"]
    if settings.method != "prefix-tuning":  # whose prompt is the cache
        given["use_cache"] = False
    if settings.method == "cpt":
        # peft adds the context's highest type to ours, and counts the tokens whose sum 4 divides
        highest = max(adapted.peft_config["default"].cpt_tokens_type_mask)
        given["input_type_mask"] = torch.full_like(batch["input_ids"], 4 - highest % 4)
    return given


def export_tensors(adapted: Any, settings: Settings) -> list[dict[str, Any]]:
    """The prompt as a prompt file holds it, once for every task, and a classifier's head with each.

    Returns:
        {"prompt_embeds": (num_virtual_tokens, hidden)} or {"prompt_kv": (layers, 2, kv_heads,
        num_virtual_tokens, head_dim)}, and a head's tensors, float32.
    """
    head = head_tensors(adapted)
    if settings.method == "head":
        return [head]
    return [{**prompt, **head} for prompt in _prompt_tensors(adapted, settings)]


def _prompt_tensors(adapted: Any, settings: Settings) -> list[dict[str, Any]]:
    config = adapted.peft_config["default"]
    with torch.no_grad():
        rows = adapted.get_prompt_embedding_to_save("default").float().cpu().numpy()
    if settings.method == "prefix-tuning":
        # rows: (num_virtual_tokens, layers · 2 · kv_heads · head_dim)
        heads = config.num_attention_heads
        cache = rows_to_kv(rows, config.num_layers, heads, config.token_dim // heads)
        if config.task_type == "SEQ_2_SEQ_LM":
            cache = decoder_layers(cache)[: _decoder_sizes(adapted.config)[0]]
        return [{"prompt_kv": cache}]
    if settings.method == "multitask":
        encoder = adapted.prompt_encoder["default"]
        tensors = {
            name: getattr(encoder, name).detach().float().cpu().numpy()
            for name in ("prefix_task_cols", "prefix_task_rows")
        }
        tensors["prompt_embeddings"] = rows
        return [
            {"prompt_embeds": combine_multitask(tensors, task)} for task in range(config.num_tasks)
        ]
    return [{"prompt_embeds": np.array(rows, dtype=np.float32)}]  # (num_virtual_tokens, hidden)


def _start_from_cache(adapted: Any, backbone: Backbone, text: str, num_virtual_tokens: int) -> None:
    """Begin prefix tuning with the keys and values of a text, or of random tokens."""
    if text:
        ids = _repeat(list(backbone.tokenizer(text).input_ids), num_virtual_tokens)
    else:
        size = backbone.model.get_input_embeddings().num_embeddings
        ids = torch.randint(0, size, (num_virtual_tokens,)).tolist()
    tokens = torch.tensor([ids], device=backbone.device)  # (1, num_virtual_tokens)
    if not backbone.source.is_seq2seq:
        with torch.no_grad():
            cache = backbone.model(input_ids=tokens, use_cache=True).past_key_values
        peft.initialize_kv_prefix_from_past_key_values(adapted, past_key_values=cache)
        return
    with torch.no_grad():  # the decoder's, of the tokens as an answer to themselves
        output = backbone.model(input_ids=tokens, decoder_input_ids=tokens, use_cache=True)
        layers = output.past_key_values.self_attention_cache.layers
        pairs = [torch.stack([layer.keys[0], layer.values[0]]) for layer in layers]
        kv = (
            torch.stack(pairs).float().cpu().numpy()
        )  # (layers, 2, heads, num_virtual_tokens, head_dim)
        weight = adapted.prompt_encoder["default"].embedding.weight
        weight.copy_(torch.from_numpy(prefix_rows(kv, is_seq2seq=True)))


def prefix_rows(cache: npt.NDArray[np.float32], *, is_seq2seq: bool) -> npt.NDArray[np.float32]:
    """A prompt's keys and values as peft learns them, (num_virtual_tokens, layers · 2 · heads · head_dim).

    Args:
        cache: (layers, 2, kv_heads, num_virtual_tokens, head_dim).
        is_seq2seq: whether they are an encoder-decoder's, whose layers peft keeps in another order.
    """
    kept = saved_layers(cache) if is_seq2seq else cache
    return np.ascontiguousarray(kept.transpose(3, 0, 1, 2, 4).reshape(cache.shape[3], -1))


def _decoder_sizes(config: Any) -> tuple[int, int, int]:
    """Layers, heads and head_dim of an encoder-decoder's decoder; T5's heads need not fill its width."""
    if hasattr(config, "d_kv"):
        return config.num_decoder_layers, config.num_heads, config.d_kv
    heads = config.decoder_attention_heads
    return config.decoder_layers, heads, config.d_model // heads


def _context(
    backbone: Backbone, settings: Settings, examples: Sequence[Example]
) -> tuple[list[int], list[int]]:
    """Ids and types of CPT's context: the description, or examples of the data one after another."""
    kind, text = settings.initial()
    if kind == "text":
        ids = _repeat(list(backbone.tokenizer(text).input_ids), settings.virtual_tokens)
        return ids, [_CPT_FORMAT] * len(ids)
    ids, types = [], []
    for index in torch.randperm(len(examples)).tolist():
        example = examples[index]
        ids += example.ids
        types += [_CPT_INPUT] * example.start
        # A text alone has no answer that should stay as it is.
        answer = _CPT_ANSWER if example.answer else _CPT_INPUT
        types += [answer] * (len(example.ids) - example.start)
        if len(ids) >= settings.virtual_tokens:
            break
    if len(ids) < settings.virtual_tokens:
        raise UsageError(
            f"the training data has {len(ids)} tokens, fewer than the {settings.virtual_tokens} virtual "
            "tokens of the context. Give more data or fewer virtual tokens."
        )
    return ids[: settings.virtual_tokens], types[: settings.virtual_tokens]


def _repeat(ids: list[int], count: int) -> list[int]:
    """Repeated or cut to a length, as peft does with a text."""
    if not ids:
        raise UsageError("the text that the prompt should start from has no token. Give words.")
    return (ids * (count // len(ids) + 1))[:count]
