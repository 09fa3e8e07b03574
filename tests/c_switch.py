"""`pytest --engine c`: the tests of the Python runtime, run against the C library.

`edgept.load` then gives the C engine's model. A test that asks for what the library lacks, or that looks
into the Python engine, is skipped with that as its reason. Errors are compared by their classes: their words
are the library's own. A batch is its requests one after another.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import pytest

import edgept
from edgept.bundle import MANIFEST_NAME
from edgept.runtime import c_engine, c_reading, c_request, c_writing
from edgept.runtime.c_engine import CModel
from edgept.runtime.c_prompt import CPrompt
from tests.c_library import BUILD
from tests.c_library import c_library as build

__all__ = ["running_in_c", "skip_what_is_apart"]

# Tests of what the C engine does otherwise, and says so, or of what it lacks.
_APART = {
    "test_closing_a_stream_ends_it": "the C library goes on while its reader does something else",
    "test_cancel_by_an_event": "the C library goes on while its reader does something else",
    "test_prompts_share_a_run_and_come_back_exactly": "the C library lacks rows that share a run",
    "test_chat_with_prompts_inside_messages": "the C library lacks model.chat",
    "test_chat_ids_are_those_of_transformers": "the C library lacks model.chat",
}
_LAST_SET = "load_ms"  # by CModel's constructor


def _lacks(what: str, _hint: str = "") -> NoReturn:
    pytest.skip(f"the C library lacks {what}")


def _one_after_another(
    call: Callable[..., Any], requests: Iterable[tuple[Any, Any]], **options: Any
) -> list[Any]:
    results = []
    for index, (content, prompt) in enumerate(requests):
        seed = {} if options.get("seed") is None else {"seed": options["seed"] + index}
        results.append(call(content, prompt=prompt, **{**options, **seed}))
    return results


def _get_missing(owner: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in ("generate_batch", "classify_batch", "embed_batch"):
        return partial(_one_after_another, getattr(owner, name.removesuffix("_batch")))
    if not name.startswith("_") and hasattr(edgept.Model, name):
        _lacks(f"model.{name}")
    pytest.skip(f"looks into the Python engine: {type(owner).__name__}.{name}")


def _set(model: CModel, name: str, value: Any) -> None:
    if _LAST_SET in model.__dict__:
        pytest.skip(f"changes the Python engine: model.{name}")
    object.__setattr__(model, name, value)


def skip_what_is_apart(items: Iterable[pytest.Item]) -> None:
    """Skip the tests that say of the Python engine what is not so in C."""
    for item in items:
        reason = _APART.get(getattr(item, "originalname", ""))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@contextmanager
def running_in_c() -> Iterator[None]:
    """Give the C engine's model to everyone who loads one; skip where the library cannot be built."""
    build()
    load, raises = edgept.load, pytest.raises

    def load_in_c(*arguments: Any, **options: Any) -> Any:
        try:
            return load(*arguments, **{"engine": "c", **options})
        except edgept.UntrustedError as error:
            if MANIFEST_NAME in str(error):  # the library reads what the graph itself says
                pytest.skip(f"changes {MANIFEST_NAME} alone")
            raise

    def raises_class(expected: Any, *arguments: Any, match: Any = None, **options: Any) -> Any:
        return raises(expected, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPT_LIBRARY", str(BUILD / "libedgept.so"))
        patch.setattr(edgept, "load", load_in_c)
        patch.setattr(pytest, "raises", raises_class)
        for module in (c_engine, c_reading, c_request, c_writing):
            patch.setattr(module, "lacks", _lacks)
        for owner in (CModel, CPrompt):
            patch.setattr(owner, "__getattr__", _get_missing, raising=False)
        patch.setattr(CModel, "__setattr__", _set)
        yield
