"""Chat templates: a list of messages to the text that a chat model was trained on.

A bundle's template is a Jinja program. It runs in `edgept.runtime.sandbox` and sees nothing but plain
copies of the messages: strings, numbers, lists and dicts.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError

from edgept.errors import InvalidFileError, UntrustedError, UsageError
from edgept.runtime.sandbox import chat_environment
from edgept.runtime.text import read_tokenizer_config, special_tokens

__all__ = ["ChatTemplate"]

Message = Mapping[str, Any]

# What a template's own expressions may raise when a message is not of the shape that it expects.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A bundle's chat template: renders what transformers' `apply_chat_template` renders.

    Threads may share one.
    """

    def __init__(
        self, template: str | Mapping[str, str], tokens: Mapping[str, str] | None = None
    ) -> None:
        """Compile a template.

        Args:
            template: Jinja source, or sources by name: "default" and, for messages with tools,
                "tool_use".
            tokens: the tokenizer's named special tokens; templates read bos_token and the like.

        Raises:
            InvalidFileError: the source is not Jinja.
            UntrustedError: compiling it already reached for what the sandbox refuses.
        """
        sources = {"default": template} if isinstance(template, str) else template
        environment = chat_environment()
        self._templates = {name: _compile(environment, text) for name, text in sources.items()}
        self._tokens = dict(tokens or {})

    @classmethod
    def from_bundle(cls, folder: Path) -> "ChatTemplate":
        """Read chat_template.jinja, else the chat_template of tokenizer_config.json.

        Raises:
            UsageError: the bundle has no chat template.
            InvalidFileError: one of the two files is malformed.
            UntrustedError: as in `ChatTemplate`.
        """
        config = read_tokenizer_config(folder)
        path = folder / "chat_template.jinja"
        try:
            if path.is_file():
                template: Any = path.read_text(encoding="utf-8")
            else:
                template = config.get("chat_template")
            if isinstance(template, list):  # several, as [{"name": ..., "template": ...}]
                template = {entry["name"]: entry["template"] for entry in template}
            names = template if isinstance(template, dict) else {"default": template}
            if template and not all(isinstance(source, str) for source in names.values()):
                raise TypeError("it is not text")
        except (UnicodeDecodeError, KeyError, TypeError) as error:
            raise InvalidFileError(
                "chat-template-malformed",
                f"the chat template of {folder} cannot be read: {error!r}. Copy the bundle again, or "
                "export again.",
            ) from error
        if not template:
            raise UsageError(
                f"the bundle {folder} has no chat template: neither chat_template.jinja nor "
                "chat_template in tokenizer_config.json. Pass a plain text prompt instead of messages, "
                "or put the model's chat_template.jinja beside the tokenizer and export again."
            )
        return cls(template, special_tokens(config))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Render messages to text.

        The text holds its special tokens already: encode it with ``special_tokens=False``. A message
        that spells out a special token is not disarmed: it becomes that token, as in transformers.

        Args:
            messages: ``{"role": "user", "content": "..."}``, oldest first. A content that is a list
                of strings is joined.
            tools: JSON schemas of the functions that the model may call.
            documents: ``{"title": ..., "text": ...}`` for templates that take them.
            add_generation_prompt: end with the header of the assistant's answer.
            **variables: what else the template reads, ``enable_thinking=False``.

        Raises:
            UsageError: the template refuses the messages, or they hold something that is not plain
                data; `render_parts` takes prompts.
            UntrustedError: the template reached for what the sandbox refuses.
        """

        def refuse(found: object) -> NoReturn:
            raise UsageError(
                f"messages hold a {type(found).__name__}, expected text, numbers, lists and dicts. Use "
                "render_parts for prompts in messages."
            )

        data = {"messages": messages, "tools": tools, "documents": documents, **variables}
        return self._run({**data, "add_generation_prompt": add_generation_prompt}, refuse)

    def render_parts(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> list[str | object]:
        """Render messages that hold objects, prompts as a rule, among their text.

        ``{"role": "user", "content": [spanish, "Where is my parcel?"]}`` puts the prompt's virtual
        tokens at the start of the user's text, inside the template's markup.

        Returns:
            The text cut at the objects, and the objects, in order; no empty text.

        Raises:
            UsageError: as in `render`, or the template left out an object.
            UntrustedError: as in `render`.
        """
        # Lower-case letters and digits, so that no template's trim, tojson or split changes it, and
        # random, so that no message can contain it.
        mark = f"edgept{secrets.token_hex(16)}"
        parts: list[object] = []

        def stand_in(found: object) -> str:
            parts.append(found)
            return f"{mark}n{len(parts) - 1}z"

        data = {"messages": messages, "tools": tools, "documents": documents, **variables}
        text = self._run({**data, "add_generation_prompt": add_generation_prompt}, stand_in)
        pieces: list[str | object] = []
        first, *marked = text.split(f"{mark}n")
        pieces.append(first)
        found = set()
        for piece in marked:
            number, _, rest = piece.partition("z")
            found.add(int(number))
            pieces += [parts[int(number)], rest]
        if missing := set(range(len(parts))) - found:
            names = ", ".join(repr(getattr(parts[i], "name", parts[i])) for i in sorted(missing))
            raise UsageError(
                f"the chat template left out {names}: it does not print every message as it is. Put "
                "the prompt into another message, a user's content for one."
            )
        return [piece for piece in pieces if not isinstance(piece, str) or piece]

    def _run(self, data: dict[str, Any], stand_in: Callable[[object], str]) -> str:
        """Render with plain copies of everything, objects replaced by what `stand_in` gives."""
        messages = [_message(message, stand_in) for message in data["messages"]]
        if not messages:
            raise UsageError('found no messages; pass at least one, {"role": "user", ...}.')
        rest = {name: _plain(value, stand_in) for name, value in data.items() if name != "messages"}
        template = self._templates.get("default")
        if data["tools"] is not None:
            template = self._templates.get("tool_use", template)
        if template is None:
            raise UsageError(
                f"the bundle's chat templates are named {', '.join(self._templates)}, and none "
                "'default'. Export again with one template, in chat_template.jinja."
            )
        try:
            return template.render({**self._tokens, **rest, "messages": messages})
        except (SecurityError, OverflowError, RecursionError, MemoryError) as error:
            raise _refused(error) from error
        except _TEMPLATE_ERRORS as error:
            raise UsageError(
                f"the chat template refuses these messages: {error}. Check their roles, their order and "
                "that every content is text."
            ) from error


def _refused(error: Exception) -> UntrustedError:
    return UntrustedError(
        f"the bundle's chat template was stopped: {error}. No chat template needs that; do not use this "
        "bundle unless you trust who made it."
    )


def _compile(environment: jinja2.Environment, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except SecurityError as error:
        raise _refused(error) from error
    # A hostile source can also nest too deep for Jinja's parser or for Python's.
    except (jinja2.TemplateSyntaxError, SyntaxError, RecursionError, MemoryError) as error:
        raise InvalidFileError(
            "chat-template-malformed",
            f"the chat template is not valid Jinja: {error}. Copy the bundle again, or correct the "
            "model's chat_template.jinja and export again.",
        ) from error


def _message(message: object, stand_in: Callable[[object], str]) -> dict[str, Any]:
    """A plain copy of a message, as transformers passes it to a template."""
    if not isinstance(message, Mapping):
        raise UsageError(
            f'a message is a {type(message).__name__}, expected {{"role": "user", "content": "..."}}.'
        )
    # A None means "not there" (OpenAI's tool_calls=None); templates would print "None".
    plain: dict[str, Any] = {}
    for name, value in message.items():
        if value is not None:
            plain[str(name)] = (
                _content(value, stand_in) if name == "content" else _plain(value, stand_in)
            )
    reasoning = next((plain[name] for name in _REASONING_NAMES if name in plain), None)
    if reasoning is not None:  # templates read one name or the other
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _content(value: object, stand_in: Callable[[object], str]) -> Any:
    """A message's content; text mixed with objects is joined, since most templates want a string."""
    if isinstance(value, (list, tuple)) and not any(isinstance(part, Mapping) for part in value):
        return "".join(str(_plain(part, stand_in)) for part in value)
    return _plain(value, stand_in)


def _plain(value: object, stand_in: Callable[[object], str]) -> Any:
    """Copy of JSON-like data in the plain types themselves: a subclass may carry methods."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key, stand_in): _plain(item, stand_in) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, stand_in) for item in value]
    return stand_in(value)
