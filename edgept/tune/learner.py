"""What the training loop asks of a task, whatever it is that is learnt."""

from collections.abc import Sequence
from typing import Any, Protocol

from edgept.tune.evaluate import Validation
from edgept.tune.job import Job

__all__ = ["Learner"]


class Learner(Protocol):
    """A job with what is trained for it.

    Attributes:
        job: what is to be trained.
        module: holds all that is trained: its parameters that have gradients.
        unit: what `count` counts, "tokens".
    """

    job: Job
    module: Any
    unit: str

    def make_batch(self, rows: Sequence[int], begin: int) -> Any:
        """Examples of a forward pass.

        Args:
            rows: their indices.
            begin: of the first one in the endless sequence of passes, which decides all that is random.
        """

    def weigh(self, batch: Any) -> int:
        """How much a batch's loss counts among those of one update."""

    def count(self, batch: Any) -> int:
        """How much is learnt from in a batch."""

    def loss(self, batch: Any) -> Any:
        """Mean loss of a batch, to be differentiated."""

    def validate(self, step: int) -> Validation:
        """Loss and metric over the held-out examples, leaving every random state as it is."""

    def export(self) -> list[dict[str, Any]]:
        """What is trained, as prompt files hold it; one for every task."""
