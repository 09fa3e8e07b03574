"""What a caller may choose: how a bundle is loaded, and twelve options of a generation, checked in one place."""

import threading
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from edgept.runtime.beams import BeamOptions
from edgept.runtime.generation import Limits
from edgept.runtime.sampling import Sampling

__all__ = ["GenerateOptions", "LoadOptions", "read_options"]


class LoadOptions(TypedDict, total=False):
    """Options of `load`, which says what they are."""

    threads: int | None
    providers: Sequence[str] | None
    max_length: int | None
    check_hashes: bool


class GenerateOptions(TypedDict, total=False):
    """Options of `Model.generate`, `Model.stream` and `Model.generate_batch`, all of them optional.

    Attributes:
        max_new_tokens: at most this many, of each row; 256 by default.
        temperature: 0, the default, is greedy; see `Sampling` for this and the next four.
        top_k: 0, the default, is off.
        top_p: 1, the default, is off.
        repetition_penalty: 1, the default, is off.
        seed: of the sampling; None, the default, differs from run to run. Row i of a batch uses
            seed + i.
        stop: a text, or texts, that end the generation, themselves left out.
        on_full: what to do when the longest sequence is reached: "stop", the default, with
            finish_reason "full", or "error".
        cancel: another thread sets it to end at the next token.
        num_beams: of beam search, on an encoder-decoder's bundle only; 1 is greedy. Without it, the
            model's own generation_config decides, and under a temperature there is one. See
            `BeamOptions` for this and the next two.
        length_penalty: as above.
        early_stopping: as above.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    on_full: Literal["stop", "error"]
    cancel: threading.Event | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None


def read_options(
    eos_token_ids: Iterable[int],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    on_full: Literal["stop", "error"] = "stop",
    cancel: threading.Event | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: bool | Literal["never"] | None = None,
) -> tuple[Sampling, Limits, BeamOptions]:
    """Check `GenerateOptions` and fill in their defaults.

    Raises:
        TypeError: there is no option of that name.
        UsageError: a value is out of its range.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed)
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    limits = Limits(max_new_tokens, stops, frozenset(eos_token_ids), on_full, cancel)
    return sampling, limits, BeamOptions(num_beams, length_penalty, early_stopping)
