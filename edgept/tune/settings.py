"""How a prompt is tuned: every setting of a run, its default, and what it may be."""

from dataclasses import dataclass, fields
from typing import Any

from edgept.errors import UsageError
from edgept.tune.learning_rates import (
    GO_ON_SHARE,
    LEARNING_RATES,
    PICTURE_LEARNING_RATES,
    head_rate,
    prompt_rate,
)

__all__ = [
    "METHODS",
    "PICTURE_METHODS",
    "PICTURE_TASKS",
    "TASKS",
    "TEXT_TASKS",
    "Columns",
    "Settings",
]

METHODS = (*LEARNING_RATES, *PICTURE_LEARNING_RATES, "head")  # the last one is for both
PICTURE_METHODS = tuple(PICTURE_LEARNING_RATES)
TEXT_TASKS = ("text-generation", "text2text-generation", "text-classification")
PICTURE_TASKS = ("image-classification", "image-segmentation", "object-detection")
TASKS = ("auto", *TEXT_TASKS, *PICTURE_TASKS)
_INITS = {
    "prompt-tuning": ("text", "vocab", "random"),
    "p-tuning": ("random",),
    "prefix-tuning": ("kv", "vocab", "random"),
    "multitask": ("text", "vocab", "random"),
    "cpt": ("text", "examples"),
    "head": ("random",),
    "vpt-shallow": ("random",),
    "vpt-deep": ("random",),
    "coop": ("random",),
}
# Methods whose file is what they train, so that a run can begin from one. What p-tuning and multitask
# learn is computed from more than their file holds; their rows are prompt tuning's.
_GO_ON = ("prompt-tuning", "prefix-tuning", "head", "vpt-shallow", "vpt-deep")
_NAMED = ("text", "kv", "prompt")  # what stands behind the colon is needed
_WITHOUT_ROWS = ("head", "coop")
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
    image: str = "image"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. Two runs with equal settings, data and model give the same prompt file.

    Attributes:
        method: prompt-tuning, p-tuning, prefix-tuning, multitask or cpt, which peft trains; vpt-shallow
            or vpt-deep, visual prompts before the first layer or before every one; coop, vectors in front
            of the classes' names in CLIP's text tower; or head, a head without a prompt (linear probing).
            Of an image model, prompt-tuning is vpt-deep.
        task: text-generation; text2text-generation, of an encoder-decoder; text-classification, which
            trains a head beside the prompt; None or auto is the one that the model was saved for, and
            text-classification for an encoder. Of an image model: image-classification,
            image-segmentation or object-detection; None is what the data are for.
        virtual_tokens: positions that the prompt takes; a head alone takes none. Of coop, vectors in
            the text tower, where no template says how many.
        init: where the prompt starts: "text:…" the embeddings of a text, "vocab" those of random
            tokens, "kv:…" a text's keys and values (prefix tuning), "examples" of the data (CPT),
            "random", or "prompt:…" a prompt in any form that edgept reads, to go on from, with its
            number of virtual tokens. None takes the description where there is one, else vocab.
        description: the task in a sentence, "Answer in Spanish:".
        name: what the prompt is called; None takes the file's name.
        learning_rate: highest of the schedule; None takes the method's, as measured, and less to go on from a
            prompt.
        head_learning_rate: the same of a classifier's head; None takes what was measured, by the
            size of what the head reads.
        warmup: share of the steps in which the learning rate rises; then it falls as a cosine to 0.
        steps: updates of the prompt; None with no epochs is 500.
        epochs: passes over the data, instead of steps.
        batch_size: rows of a forward pass.
        accumulate: forward passes of an update.
        precision: fp32, bf16, or auto: bf16 on a GPU that has it, else fp32.
        device: cpu, cuda, or auto.
        seed: of the initial prompt, the data's order and the evaluation split.
        eval_split: share of the training rows that are held out; the prompt that is kept is the one with the
            lowest loss there, whatever its metric.
        eval_every: steps between validations; None is a twentieth of all.
        patience: validations without a better loss after which training ends; 0 never does.
        metric_rows: rows for which a validation generates, to count exact matches.
        max_length: longest row in tokens; None is what the model leaves, at most 1024.
        drop_long: leave longer rows out instead of refusing them.
        checkpoint_activations: compute activations twice instead of keeping them.
        weights: what the frozen model computes with: "bundle", the weights of the bundle that the
            prompt is measured on, where there is one and it is quantised; or "float", its own.
        columns: names of the data's columns.
        labels: names of the classes in order, of pictures whose data only number them.
        projection: width of the rows that a visual prompt learns, made as wide as the model by a linear
            layer that is learnt, too, and folded into the file; None learns the rows themselves.
        template: of coop, "a photo of a {}.": the words before the class's name are where its vectors
            begin.
        flip: mirror each picture, left to right, in half of the times that it is learnt from.
    """

    method: str = "prompt-tuning"
    task: str | None = None
    virtual_tokens: int = 16
    init: str | None = None
    description: str | None = None
    name: str | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
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
    weights: str = "bundle"
    columns: Columns = Columns()
    labels: tuple[str, ...] = ()
    projection: int | None = None
    template: str | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"unknown method {self.method!r}; expected one of {', '.join(METHODS)}."
            )
        _check_choice("task", self.task or "auto", TASKS)
        _check_choice("precision", self.precision, ("auto", "fp32", "bf16"))
        _check_choice("device", self.device, ("auto", "cpu", "cuda"))
        _check_choice("weights", self.weights, ("bundle", "float"))
        for name in ("virtual_tokens", "steps", "batch_size", "accumulate", "eval_every"):
            _check_count(name, getattr(self, name), 1)
        for name in ("seed", "patience", "metric_rows"):
            _check_count(name, getattr(self, name), 0)
        _check_count("max_length", self.max_length, 2)
        _check_count("projection", self.projection, 1)
        _check_range("learning_rate", self.learning_rate, 0, float("inf"))
        _check_range("head_learning_rate", self.head_learning_rate, 0, float("inf"))
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
        if self.method == "head" and self.learning_rate is not None:
            raise UsageError("a head alone has no prompt to learn; its rate is head_learning_rate.")
        if self.projection is not None and self.method in _WITHOUT_ROWS:
            raise UsageError(
                f"--method {self.method} learns no rows of a prompt, so no --projection of them."
            )
        if self.template is not None and self.method != "coop":
            raise UsageError("--template is for --method coop, which learns what stands in it.")
        if self.head_learning_rate is not None and self.method == "coop":
            raise UsageError("coop makes its head of texts, so there is no --head-learning-rate.")
        if isinstance(self.labels, str) or not all(isinstance(name, str) for name in self.labels):
            raise UsageError(f"labels are {self.labels!r}; expected names, one for each class.")
        object.__setattr__(self, "labels", tuple(self.labels))  # a list, from YAML
        self.initial()

    @property
    def prompt_length(self) -> int:
        """Virtual tokens of the prompt; 0 for a head alone, which coop's is, too."""
        return 0 if self.method in _WITHOUT_ROWS else self.virtual_tokens

    @property
    def rate_option(self) -> str:
        """What the command line calls the method's learning rate."""
        return "--head-learning-rate" if self.method == "head" else "--learning-rate"

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
        if kind == "prompt" and self.method not in _GO_ON:
            raise UsageError(
                f"what {self.method} trains is not in its file, only what it leaves, so it cannot go on from "
                f"one. Tune that with --method {'head' if self.method == 'coop' else 'prompt-tuning'}."
            )
        if self.method in _GO_ON:
            allowed = (*allowed, "prompt")
        if kind not in allowed:
            expected = ", ".join(f"{name}:…" if name in _NAMED else name for name in allowed)
            raise UsageError(
                f"init {self.init!r} is not for {self.method}; expected one of {expected}."
            )
        if (kind in _NAMED) != bool(text.strip()):
            raise UsageError(
                f"init {self.init!r}: a text belongs behind 'text:' and 'kv:', a file behind 'prompt:', and "
                "nothing behind others. Write text:Answer in Spanish, for example."
            )
        return kind, text

    def head_rate(self, feature_rms: float, num_layers: int = 1) -> float:
        """The highest learning rate of a classifier's head; arguments as `learning_rates.head_rate`."""
        if self.head_learning_rate is not None:
            return self.head_learning_rate
        return self._share * head_rate(feature_rms, num_layers)

    def rate(self, embedding_rms: float) -> float:
        """The highest learning rate of the prompt; `embedding_rms` as of `learning_rates.prompt_rate`."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self._share * prompt_rate(self.method, embedding_rms)

    @property
    def _share(self) -> float:
        return GO_ON_SHARE if self.initial()[0] == "prompt" else 1.0

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
