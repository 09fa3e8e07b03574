"""What a benchmark asks of a model: text that is generated, or pictures that are looked at.

All else is one and the same: `edgept.bench.texts` and `edgept.bench.pictures` hold what differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgept.bench.answers import Answer
from edgept.bench.ceilings import Ceilings
from edgept.bench.earlier import Earlier
from edgept.bench.phases import Samples
from edgept.bench.picture import PictureFile
from edgept.bench.plan import Plan
from edgept.bench.question import Question
from edgept.latency import Latency
from edgept.manifest import Manifest
from edgept.prompt import Prompt
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model

__all__ = ["Kind", "Least", "Shared", "Subject"]

Least = Callable[[LoadedPrompt], Latency]
"""Runs the shortest request that there is under a prompt, which is swapped in as in any other."""


class Subject(Protocol):
    """A request, whatever the prompt in front of it."""

    @property
    def request(self) -> Question | PictureFile:
        """What a report says of it."""

    @property
    def titles(self) -> Mapping[str, str]:
        """Of the phases, by name."""

    @property
    def message(self) -> Mapping[str, object]:
        """What a process of its own is told to ask."""

    def run(self, model: Model, prompts: Sequence[LoadedPrompt]) -> tuple[Samples, list[Answer]]:
        """Ask once, a row under each prompt: the phases without end to end, and the rows' answers."""

    def first(self, answer: Answer) -> int:
        """What a process of its own says of its answer."""

    def ceilings(self, model: Model, prompt: LoadedPrompt) -> Ceilings:
        """What this machine would allow at best."""

    def unlike(self, other: Question | PictureFile) -> str:
        """Why another report's request is not this one; "" where it is."""

    def work(self, model: Model, prompt: LoadedPrompt) -> str:
        """What a request under a prompt does, in words: prompts whose words are equal cost alike."""

    def beside(
        self,
        model: Model,
        pool: Sequence[LoadedPrompt],
        other: Model,
        other_pool: Sequence[LoadedPrompt],
    ) -> "Shared":
        """What both models can be asked in turn, each under its prompts, which take turns."""

    def notes(self) -> list[str]:
        """What a reader should know of the request."""


@dataclass(frozen=True)
class Shared:
    """What two models are asked in turn.

    Attributes:
        subject: the request.
        notes: what makes the two unlike.
        other_work: phases in which the two sides' prompts do other work, so that no ratio of them is a
            difference of the models.
    """

    subject: Subject
    notes: list[str]
    other_work: frozenset[str] = frozenset()


class Kind(Protocol):
    """A module that knows one kind of bundle."""

    def check(
        self, plan: Plan, manifest: Manifest, prompts: Sequence[Prompt], earlier: Earlier | None
    ) -> None:
        """Say what cannot work before anything is run.

        Raises:
            EdgeptError: what it is.
        """

    def least_request(self, model: Model) -> Least:
        """The shortest request that there is."""

    def choose(
        self,
        plan: Plan,
        model: Model,
        pool: Sequence[LoadedPrompt],
        earlier: Earlier | None,
        folder: Path,
    ) -> Subject:
        """The request that the options ask for; where they are silent, that of the other report.

        Args:
            plan: with the options.
            model: that is measured.
            pool: prompts under which it is asked.
            earlier: the other report.
            folder: for files that a process of its own reads.
        """
