"""How an encoder-decoder generates: the rules that its own generation_config sets."""

import math
from dataclasses import dataclass, field

__all__ = ["Decoding"]


@dataclass(frozen=True)
class Decoding:
    """How an encoder-decoder generates: what transformers' generate takes from its generation_config.

    Attributes:
        start_token_id: decoder_start_token_id, which every answer begins with, itself left out.
        forced_bos_token_id: the first token of every answer; None leaves it to the model.
        forced_eos_token_ids: the last token at the greatest length; empty leaves it to the model.
        bad_words_ids: sequences of ids that are never generated; suppressed tokens are among them.
        begin_suppress_tokens: ids that are not generated first.
        no_repeat_ngram_size: no sequence of so many ids is generated twice; 0 is off.
        min_length: no end before so many ids, the start included.
        min_new_tokens: no end before so many, the start not included.
        num_beams: of beam search; 1 is greedy. A request may choose another.
        length_penalty: exponent of the length by which a beam's score is divided.
        early_stopping: as in transformers: True, False or "never".
        renormalize: whether scores are probabilities again after these rules (beam search only).
    """

    start_token_id: int
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: list[int] = field(default_factory=list)
    bad_words_ids: list[list[int]] = field(default_factory=list)
    begin_suppress_tokens: list[int] = field(default_factory=list)
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    renormalize: bool = False

    def to_texts(self) -> dict[str, str]:
        """Each field as a text, for programs without a JSON parser; those that are None are left out.

        Ids stand between commas, sequences of ids between semicolons: `1,2;3`. Booleans are 0 and 1.
        """
        return {
            name: ";".join(",".join(map(str, ids)) for ids in value)
            if name == "bad_words_ids"
            else ",".join(map(str, value))
            if isinstance(value, list)
            else str(int(value) if isinstance(value, bool) else value)
            for name, value in vars(self).items()
            if value is not None
        }

    def is_sane(self) -> bool:
        """Whether every field is of its type and range; JSON may hold anything."""
        counts = (self.start_token_id, self.no_repeat_ngram_size, self.min_length)
        lists = (self.forced_eos_token_ids, self.begin_suppress_tokens, *_rows(self.bad_words_ids))
        return (
            _are_counts([*counts, self.min_new_tokens])
            and _are_counts([self.num_beams])
            and self.num_beams >= 1
            and (self.forced_bos_token_id is None or _are_counts([self.forced_bos_token_id]))
            and isinstance(self.bad_words_ids, list)
            and all(isinstance(ids, list) and _are_counts(ids) for ids in lists)
            and all(self.bad_words_ids)
            and type(self.length_penalty) in (int, float)
            and math.isfinite(self.length_penalty)
            and (type(self.early_stopping) is bool or self.early_stopping == "never")
            and type(self.renormalize) is bool
        )


def _rows(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _are_counts(values: list[int]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
