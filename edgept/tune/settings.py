"""How a prompt is tuned: every setting of a run, its default, and what it may be."""

from dataclasses import dataclass, fields
from typing import Any

from edgept.errors import UsageError

__all__ = ["LEARNING_RATES", "METHODS", "Columns", "Settings"]

# Validation loss on stories260K after 200 steps of 4 rows, 16 virtual tokens, TinyStories in lower case
# (2.443 without a prompt; the start from vocab). Larger models mostly want less, so where two rates are
# close, the lower one is the default.
#
#   prompt-tuning   0.03 2.139   0.1 2.041   0.3 2.045   1.0 2.020   3.2 1.989   times embedding_rms
#   p-tuning      0.0003 2.268  0.001 2.177  0.003 2.088  0.01 2.088  0.03 2.107
#   prefix-tuning  0.003 2.371   0.01 2.095   0.03 1.993   0.1 1.916   0.3 1.924
#   multitask       0.03 2.142   0.1 2.093   0.3 2.056   1.0 2.109
#   cpt            0.003 2.458   0.01 2.458   0.03 2.459   0.1 2.459   from examples; moves little by design
LEARNING_RATES = {
    "prompt-tuning": 0.3,
    "p-tuning": 0.003,
    "prefix-tuning": 0.03,
    "multitask": 0.3,
    "cpt": 0.003,
}
METHODS = tuple(LEARNING_RATES)
_INITS = {
    "prompt-tuning": ("text", "vocab", "random"),
    "p-tuning": ("random",),
    "prefix-tuning": ("kv", "vocab", "random"),
    "multitask": ("text", "vocab", "random"),
    "cpt": ("text", "examples"),
}
_DEFAULT_STEPS = 500


@dataclass(frozen=True)
class Columns:
    """Names of the columns that the training data may have."""

    input: str = "input"
    output: str = "output"
    text: str = "text"
    label: str = "label"
    messages: str = "messages"
    task: str = "task"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. Two runs with equal settings, data and model give the same prompt file.

    Attributes:
        method: prompt-tuning, p-tuning, prefix-tuning, multitask or cpt; peft trains it.
        virtual_tokens: positions that the prompt takes.
        init: where the prompt starts: "text:…" the embeddings of a text, "vocab" those of random
            tokens, "kv:…" a text's keys and values (prefix tuning), "examples" of the data (CPT),
            "random". None takes the description where there is one, else vocab.
        description: the task in a sentence, "Answer in Spanish:".
        name: what the prompt is called; None takes the file's name.
        learning_rate: highest of the schedule; None takes `LEARNING_RATES`.
        warmup: share of the steps in which the learning rate rises; then it falls as a cosine to 0.
        steps: updates of the prompt; None with no epochs is 500.
        epochs: passes over the data, instead of steps.
        batch_size: rows of a forward pass.
        accumulate: forward passes of an update.
        precision: fp32, bf16, or auto: bf16 on a GPU that has it, else fp32.
        device: cpu, cuda, or auto.
        seed: of the initial prompt, the data's order and the evaluation split.
        eval_split: share of the training rows that are kept for validation.
        eval_every: steps between validations; None is a twentieth of all.
        patience: validations without a better loss after which training ends; 0 never does.
        metric_rows: rows for which a validation generates, to count exact matches.
        max_length: longest row in tokens; None is what the model leaves, at most 1024.
        drop_long: leave longer rows out instead of refusing them.
        checkpoint_activations: compute activations twice instead of keeping them.
        columns: names of the data's columns.
    """

    method: str = "prompt-tuning"
    virtual_tokens: int = 16
    init: str | None = None
    description: str | None = None
    name: str | None = None
    learning_rate: float | None = None
    warmup: float = 0.1
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    eval_split: float | None = None
    eval_every: int | None = None
    patience: int = 5
    metric_rows: int = 100
    max_length: int | None = None
    drop_long: bool = False
    checkpoint_activations: bool = False
    columns: Columns = Columns()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"unknown method {self.method!r}; expected one of {', '.join(METHODS)}."
            )
        _check_choice("precision", self.precision, ("auto", "fp32", "bf16"))
        _check_choice("device", self.device, ("auto", "cpu", "cuda"))
        for name in ("virtual_tokens", "steps", "batch_size", "accumulate", "eval_every"):
            _check_count(name, getattr(self, name), 1)
        for name in ("seed", "patience", "metric_rows"):
            _check_count(name, getattr(self, name), 0)
        _check_count("max_length", self.max_length, 2)
        _check_range("learning_rate", self.learning_rate, 0, float("inf"))
        _check_range("epochs", self.epochs, 0, float("inf"))
        _check_range("eval_split", self.eval_split, 0, 1)
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is {self.warmup}; expected a share from 0 to below 1.")
        if self.steps is not None and self.epochs is not None:
            raise UsageError("steps and epochs are both given; give one of them.")
        if self.method == "prefix-tuning" and self.checkpoint_activations:
            raise UsageError(
                "activations cannot be computed twice under prefix-tuning, whose prompt is the cache. "
                "Use a smaller batch and accumulate, or prompt-tuning."
            )
        self.initial()

    @classmethod
    def from_mapping(cls, options: dict[str, Any]) -> "Settings":
        """Settings from a file's entries, a field a key; "columns" is a mapping.

        Raises:
            UsageError: a key is none of the fields, or a value cannot be.
        """
        options = dict(options)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise UsageError(
                f"unknown setting {unknown[0]!r}; expected one of {', '.join(sorted(known))}."
            )
        columns = options.pop("columns", None) or {}
        try:
            return cls(**options, columns=Columns(**columns))
        except TypeError as error:
            raise UsageError(f"a setting is of the wrong kind: {error}. Correct it.") from error

    def initial(self) -> tuple[str, str]:
        """How the prompt starts: the kind, and its text where it has one.

        Raises:
            UsageError: the kind is unknown, not one of the method's, or lacks its text.
        """
        allowed = _INITS[self.method]
        if self.init is None:
            if self.description and allowed[0] != "random":
                return allowed[0], self.description
            return allowed[-1] if "vocab" not in allowed else "vocab", ""
        kind, _, text = self.init.partition(":")
        if kind not in allowed:
            expected = ", ".join(
                f"{name}:…" if name in ("text", "kv") else name for name in allowed
            )
            raise UsageError(
                f"init {self.init!r} is not for {self.method}; expected one of {expected}."
            )
        if (kind in ("text", "kv")) != bool(text.strip()):
            raise UsageError(
                f"init {self.init!r}: a text belongs behind 'text:' and 'kv:', and behind no other. "
                "Write text:Answer in Spanish, for example."
            )
        return kind, text

    def rate(self, embedding_rms: float) -> float:
        """The highest learning rate.

        Args:
            embedding_rms: root mean square of the model's input embedding. Prompt tuning moves rows of
                that scale, which differs by a factor of twenty between models.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        rate = LEARNING_RATES[self.method]
        return rate * embedding_rms if self.method == "prompt-tuning" else rate

    def total_steps(self, num_rows: int) -> int:
        """Updates of the prompt over so many training rows."""
        if self.epochs is None:
            return self.steps or _DEFAULT_STEPS
        return max(1, round(self.epochs * num_rows / (self.batch_size * self.accumulate)))


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; expected one of {', '.join(allowed)}.")


def _check_count(name: str, value: int | None, least: int) -> None:
    if value is not None and (type(value) is not int or value < least):
        raise UsageError(f"{name} is {value!r}; expected a whole number from {least} on.")


def _check_range(name: str, value: float | None, above: float, below: float) -> None:
    if value is not None and (
        not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value < below
    ):
        limit = "" if below == float("inf") else f" and below {below}"
        raise UsageError(f"{name} is {value!r}; expected a number above {above}{limit}.")
