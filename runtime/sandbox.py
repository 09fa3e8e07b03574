"""The Jinja sandbox in which a bundle's chat template runs.

A template is a program that came with a model. It sees only what it is given, cannot reach Python's
internals or open files, and cannot change its data. Time is bounded for one loop (`range` gives
100,000 steps at most), not for nested ones.
"""

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, is_internal_attribute
from jinja2.utils import Namespace

__all__ = ["chat_environment"]


def chat_environment() -> jinja2.Environment:
    """Jinja as chat templates expect it: transformers' settings, filters and globals."""
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _PlainNamespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models saw it in training; Jinja's own filter escapes <, > and & for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which only calls a forbidden attribute undefined; here reading one is an error."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        # Names such as `pop` stay undefined: a message may be asked for a key of that name.
        if attribute.startswith("_") or is_internal_attribute(obj, attribute):
            raise SecurityError(f"it reached for {attribute!r} of a {type(obj).__name__}")
        return super().unsafe_undefined(obj, attribute)


class _Generation(Extension):
    """Accepts ``{% generation %}``, which marks an assistant's text for training; prints its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """`dict` for templates, without the methods of the type itself, which could change a dict."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _PlainNamespace(Namespace):
    """`namespace` for templates; refuses the names through which Python finds its protocols."""

    def __init__(*args: Any, **items: Any) -> None:  # `self` is free as a name
        self, *rest = args
        attributes = dict(*rest, **items)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no attribute {name!r}")
