"""How long a request took, phase by phase."""

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

__all__ = ["Latency", "Timed", "until_now"]


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of one request, in milliseconds of the monotonic clock.

    Attributes:
        load_ms: bundle on disk to a session that is ready; once for a model, not in total_ms.
        prompt_ms: prompt file to a resident prompt, every check and its keys and values included;
            once for a prompt, not in total_ms. 0 without a prompt.
        swap_ms: making the prompt the request's own: its keys and values into the cache.
        tokenize_ms: text to token ids; 0 of a picture.
        prefill_ms: one run over all of the input's tokens; of a classification, tagging, answer,
            embedding or picture, all of it, shared by the rows that ran together.
        ttft_ms: time to first token, from the call, tokenisation included; None without one.
        tpot_ms: time per output token after the first; None with fewer than two.
        total_ms: the call to its end, detokenisation included; of a request among many, to its own
            result; of a stream, without the time that its reader takes between two pieces.
        virtual_tokens: of the prompts.
        input_tokens: of the text; of a picture, its patches.
        new_tokens: generated, the end-of-text token included; 0 where nothing is.
        preprocess_ms: pictures to pixel values, reading their files included, shared by those that ran
            together; None of a text.
        decode_ms: of preprocess_ms, reading and decoding the files; None of a text.
    """

    load_ms: float
    prompt_ms: float
    swap_ms: float
    tokenize_ms: float
    prefill_ms: float
    ttft_ms: float | None
    tpot_ms: float | None
    total_ms: float
    virtual_tokens: int
    input_tokens: int
    new_tokens: int
    preprocess_ms: float | None = None
    decode_ms: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second after the first; None with fewer than two."""
        return None if not self.tpot_ms else 1e3 / self.tpot_ms

    def __str__(self) -> str:
        rate = self.tokens_per_second
        first = "" if self.ttft_ms is None else f" · first token {self.ttft_ms:.1f} ms"
        pace = "" if rate is None else f" · {self.tpot_ms:.2f} ms/token · {rate:.0f} tokens/s"
        end = f"total {self.total_ms:.1f} ms"
        if self.new_tokens:
            end = f"{self.new_tokens} tokens in {self.total_ms:.0f} ms"
        if self.preprocess_ms is not None:
            return (
                f"load {self.load_ms:.0f} ms · prompt {self.prompt_ms:.2f} ms · swap {self.swap_ms:.3f} ms "
                f"· preprocess {self.preprocess_ms:.2f} ms · run {self.prefill_ms:.1f} ms "
                f"({self.virtual_tokens} virtual tokens + {self.input_tokens} patches) · {end}"
            )
        return (
            f"load {self.load_ms:.0f} ms · prompt {self.prompt_ms:.2f} ms · swap {self.swap_ms:.3f} ms "
            f"· tokenize {self.tokenize_ms:.2f} ms · prefill {self.prefill_ms:.1f} ms "
            f"({self.virtual_tokens} virtual + {self.input_tokens} tokens){first}{pace} · {end}"
        )


class Timed(Protocol):
    """A result, a frozen dataclass, that says how long it took."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def latency(self) -> Latency:
        """How long the request took."""
        ...


TimedT = TypeVar("TimedT", bound=Timed)


def until_now(result: TimedT, started: float) -> TimedT:
    """The result with its total_ms up to now, since what is made of a graph's output takes time, too.

    Args:
        result: made at last.
        started: monotonic time of the call, in seconds.
    """
    total_ms = (time.perf_counter() - started) * 1e3
    return replace(result, latency=replace(result.latency, total_ms=total_ms))
