"""What prompts that take turns do: whether two lists of them do the same, and when theirs comes round."""

import math
from collections.abc import Sequence

__all__ = ["do_the_same", "round_of"]


def do_the_same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two lists that each take turns for ever do the same work at every turn.

    Args:
        ours: what is done under each prompt, in the order of the turns.
        theirs: as well; may be longer or shorter.
    """
    turns = range(math.lcm(len(ours), len(theirs)))
    return all(ours[turn % len(ours)] == theirs[turn % len(theirs)] for turn in turns)


def round_of(works: Sequence[str], batch: int) -> int | None:
    """Requests after which the same work comes again; None where every prompt does the same.

    Args:
        works: what is done under each prompt, in the order of the turns.
        batch: prompts that a request takes.
    """
    if len(set(works)) == 1:
        return None
    period = next(
        length
        for length in range(2, len(works) + 1)
        if len(works) % length == 0 and do_the_same(works, works[:length])
    )
    return period // math.gcd(period, batch)
