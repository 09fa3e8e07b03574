import random

import pytest

from edgept.errors import UsageError
from edgept.runtime.stop import StopStrings


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    watch = StopStrings(stops)
    shown = []
    stopped = False
    for piece in pieces:
        text, stopped = watch.push(piece)
        shown.append(text)
    shown.append(watch.finish())
    return shown, stopped


def by_character(stops: list[str], text: str) -> tuple[str, bool]:
    """The rule itself: the stop string that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def test_a_stop_string_over_many_pieces_is_not_shown() -> None:
    shown, stopped = feed(["\nUser:"], ["Fine", ".\n", "U", "se", "r", ": more", "!"])
    assert shown == ["Fine", ".", "", "", "", "", "", ""]
    assert stopped


def test_what_began_like_a_stop_string_is_shown_once_it_is_not() -> None:
    assert feed(["\nUser:"], ["a\nUs", "ual", "ly"]) == (["a", "\nUsual", "ly", ""], False)


def test_finish_gives_what_was_held_back() -> None:
    assert feed(["END"], ["the EN"]) == (["the ", "EN"], False)


def test_overlapping_beginnings() -> None:
    # "aab": after "aa" + "a", the last two may still begin it
    assert feed(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", "", ""], True)


def test_the_first_complete_stop_string_wins() -> None:
    assert feed(["abcd", "bc"], ["xabcd"]) == (["x" + "a", ""], True)
    assert feed(["c", "abc"], ["xabc"]) == (["x", ""], True)


def test_pushing_after_the_stop_gives_nothing() -> None:
    watch = StopStrings(["."])
    assert watch.push("a.b") == ("a", True)
    assert watch.push("c") == ("", True)
    assert watch.finish() == ""


def test_without_stop_strings_text_passes() -> None:
    assert feed([], ["a", "", "b"]) == (["a", "", "b", ""], False)


def test_cutting_the_text_elsewhere_changes_nothing() -> None:
    random.seed(0)
    stopped_runs = 0
    for _ in range(3000):
        stops = ["".join(random.choices("ab", k=random.randint(1, 5))) for _ in range(2)]
        text = "".join(random.choices("abc", k=random.randint(0, 12)))
        pieces = []
        rest = text
        while rest:
            size = random.randint(1, 4)
            pieces.append(rest[:size])
            rest = rest[size:]
        shown, stopped = feed(stops, pieces)
        assert ("".join(shown), stopped) == by_character(stops, text), (stops, pieces)
        stopped_runs += stopped
    assert 500 < stopped_runs < 2900


@pytest.mark.parametrize("stops", [[""], ["a", ""], "text", [3]])
def test_bad_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(UsageError, match="stop string"):
        StopStrings(stops)
