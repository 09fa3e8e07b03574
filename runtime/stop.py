"""Stop strings: end a generation at a text, however the tokens cut it."""

from collections.abc import Sequence

from edgept.errors import UsageError

__all__ = ["StopStrings"]


class StopStrings:
    """Watches a stream of text for stop strings and keeps them out of it.

    The string that is complete first wins; of two that end at the same character, the longer. What
    comes out does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for `stops`; with none, text passes as it comes.

        Raises:
            UsageError: a stop string is empty, or `stops` is one string instead of a list.
        """
        if isinstance(stops, str):
            raise UsageError(
                f"stop strings are a list, found the text {stops!r}; pass [{stops!r}]."
            )
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise UsageError(
                    f"a stop string is a text of at least one character, found {stop!r}. Leave it out."
                )
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # may be the beginning of a stop string
        self._stopped = False

    def push(self, piece: str) -> tuple[str, bool]:
        """Take the next piece of text.

        Returns:
            The text that may be shown now, and whether a stop string has been found. The stop string
            and what follows it are never shown; after it, every push returns ``("", True)``.
        """
        if self._stopped:
            return "", True
        text = self._held + piece
        found = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if found:
            self._stopped = True
            self._held = ""
            return text[: min(found)[1]], True
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """The text held back, at the end of the stream: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
