"""From a model's generation_config to what its bundle says of how it generates."""

from typing import Any

from edgept.decoding import Decoding
from edgept.errors import ExportError

__all__ = ["read_decoding", "unread_settings"]

# Settings that are choices of a request here, and the value at which transformers leaves them alone.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "repetition_penalty": (1.0,),
    "temperature": (1.0,),
}
# Settings that change what is generated and that this version has no rule for.
_UNKNOWN: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "guidance_scale": (1, 1.0),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "sequence_bias": (),
    "watermarking_config": (),
}


def read_decoding(generation: Any, eos_token_ids: list[int]) -> Decoding:
    """What transformers' generate does with an encoder-decoder's generation_config.

    Args:
        generation: the GenerationConfig.
        eos_token_ids: ids that end an answer.

    Raises:
        ExportError: it names no token to start with, or a rule that this version does not have.
    """
    unknown = [name for name in _UNKNOWN if _is_set(generation, name, _UNKNOWN)]
    if unknown:
        raise ExportError(
            f"the model's generation_config sets {', '.join(unknown)}, which this version has no rule for, "
            "so its answers would not be transformers'. Remove it from generation_config.json, and export "
            "again."
        )
    start = generation.decoder_start_token_id
    start = generation.bos_token_id if start is None else start
    if type(start) is not int:
        raise ExportError(
            f"the model's generation_config says decoder_start_token_id {start!r}, expected one id, which "
            "every answer starts with. Set it in generation_config.json."
        )
    # an end that is forbidden would be none; transformers leaves it out as well
    bad = [
        ids for ids in generation.bad_words_ids or [] if ids not in [[end] for end in eos_token_ids]
    ]
    return Decoding(
        start_token_id=start,
        forced_bos_token_id=generation.forced_bos_token_id,
        forced_eos_token_ids=_ids(generation.forced_eos_token_id),
        bad_words_ids=[*bad, *([token] for token in generation.suppress_tokens or [])],
        begin_suppress_tokens=_ids(generation.begin_suppress_tokens),
        no_repeat_ngram_size=generation.no_repeat_ngram_size or 0,
        min_length=generation.min_length or 0,
        min_new_tokens=generation.min_new_tokens or 0,
        num_beams=generation.num_beams or 1,
        length_penalty=1.0 if generation.length_penalty is None else generation.length_penalty,
        early_stopping=generation.early_stopping or False,
        renormalize=bool(generation.renormalize_logits),
    )


def unread_settings(generation: Any) -> list[str]:
    """Settings of a generation_config that a request chooses here: "do_sample", ...."""
    return [name for name in _CHOICES if _is_set(generation, name, _CHOICES)]


def _is_set(generation: Any, name: str, neutral: dict[str, tuple[Any, ...]]) -> bool:
    value = getattr(generation, name, None)
    return value is not None and value not in neutral[name]


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, (list, tuple)) else [int(value)]
