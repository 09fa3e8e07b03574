"""Interpret the pickle of a torch checkpoint without running any of it.

A pickle is a program for a stack machine. This machine has the instructions that torch.save emits
for a dictionary of tensors and no others; it looks up no name and calls nothing: the six names
below are compared as text, and a call of one of them makes a plain record.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from edgept.errors import InvalidFileError

__all__ = ["MAX_PICKLE_BYTES", "Storage", "Tensor", "interpret"]

MAX_PICKLE_BYTES = 1 << 20
_MAX_STEPS = 100_000  # a tensor takes about 40
_MAX_DIMENSIONS = 8
_MAX_KEY_LENGTH = 256

# What a checkpoint may name, and what it becomes here. Storage types become numpy-like names.
_STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64",
}
_CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
# The instructions: the byte, its name in Python's pickletools, and what follows it.
_OPCODES = {
    0x80: ("PROTO", "<B"),
    ord("."): ("STOP", ""),
    ord("N"): ("NONE", ""),
    0x88: ("NEWTRUE", ""),
    0x89: ("NEWFALSE", ""),
    ord("J"): ("BININT", "<i"),
    ord("K"): ("BININT1", "<B"),
    ord("M"): ("BININT2", "<H"),
    0x8A: ("LONG1", "integer"),
    ord("G"): ("BINFLOAT", ">d"),
    ord("X"): ("BINUNICODE", "text"),
    ord("q"): ("BINPUT", "<B"),
    ord("r"): ("LONG_BINPUT", "<I"),
    ord("h"): ("BINGET", "<B"),
    ord("j"): ("LONG_BINGET", "<I"),
    ord("("): ("MARK", ""),
    ord("}"): ("EMPTY_DICT", ""),
    ord(")"): ("EMPTY_TUPLE", ""),
    0x85: ("TUPLE1", ""),
    0x86: ("TUPLE2", ""),
    0x87: ("TUPLE3", ""),
    ord("t"): ("TUPLE", ""),
    ord("s"): ("SETITEM", ""),
    ord("u"): ("SETITEMS", ""),
    ord("c"): ("GLOBAL", "two lines"),
    ord("Q"): ("BINPERSID", ""),
    ord("R"): ("REDUCE", ""),
    ord("b"): ("BUILD", ""),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Storage:
    """A block of numbers in the archive: entry data/<key>, `count` numbers of type `dtype`."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Name:
    """A global name of the pickle: text, never an object."""

    text: str


class _Mark:
    """Where a tuple or a run of items begins on the stack."""


def interpret(pickle: bytes) -> object:
    """The object that a pickle describes: dict, Tensor, str, int, float, bool, None or tuples of them.

    Raises:
        InvalidFileError: the pickle does anything else.
    """
    if len(pickle) > MAX_PICKLE_BYTES:
        raise InvalidFileError(
            "checkpoint-pickle-too-large",
            f"the checkpoint describes its tensors in {len(pickle)} bytes, a prompt's needs under "
            f"{MAX_PICKLE_BYTES}. Save the prompt's tensors alone.",
        )
    machine = _Machine()
    for steps, (opcode, argument) in enumerate(_instructions(pickle)):
        if steps > _MAX_STEPS:
            _refuse("more steps than a prompt's tensors take")
        machine.step(opcode, argument)
    return machine.result()


def _instructions(pickle: bytes) -> Iterator[tuple[str, object]]:
    """Each instruction's name and argument, up to STOP."""
    at = 0
    while True:
        byte = _take(pickle, at, 1)[0]
        if byte not in _OPCODES:
            _refuse(f"the instruction {byte:#04x}")
        name, form = _OPCODES[byte]
        at += 1
        argument: object = None
        if form == "text":
            length = int.from_bytes(_take(pickle, at, 4), "little")
            argument = _decode(_take(pickle, at + 4, length))
            at += 4 + length
        elif form == "integer":
            length = _take(pickle, at, 1)[0]
            argument = int.from_bytes(_take(pickle, at + 1, length), "little", signed=True)
            at += 1 + length
        elif form == "two lines":
            first = pickle.find(b"\n", at)
            second = pickle.find(b"\n", first + 1)
            if first < 0 or second < 0:
                _refuse("a name without an end")
            argument = _decode(pickle[at:second]).replace("\n", " ")
            at = second + 1
        elif form:
            size = struct.calcsize(form)
            argument = struct.unpack(form, _take(pickle, at, size))[0]
            at += size
        yield name, argument
        if name == "STOP":
            return


def _take(pickle: bytes, at: int, count: int) -> bytes:
    if at + count > len(pickle):
        _refuse("an instruction that is cut short")
    return pickle[at : at + count]


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _refuse("text that is not UTF-8")


class _Machine:
    """The stack and the memo."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._stopped = False

    def result(self) -> object:
        if not self._stopped or len(self._stack) != 1:
            _refuse("a program that leaves no single result")
        return self._stack[0]

    def step(self, opcode: str, argument: object) -> None:
        if opcode == "PROTO":
            if argument != 2:
                _refuse(f"pickle protocol {argument}, torch.save writes 2")
        elif opcode == "STOP":
            self._stopped = True
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._remember(argument)
        elif opcode in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._recall(argument))
        elif opcode == "MARK":
            self._stack.append(_Mark())
        elif opcode == "EMPTY_DICT":
            self._stack.append({})
        elif opcode in _TUPLES:
            self._stack.append(self._pop_many(_TUPLES[opcode]))
        elif opcode == "TUPLE":
            self._stack.append(self._pop_to_mark())
        elif opcode == "SETITEM":
            self._set_items(self._pop_many(2))
        elif opcode == "SETITEMS":
            self._set_items(self._pop_to_mark())
        elif opcode == "GLOBAL":
            self._stack.append(_name(str(argument)))
        elif opcode == "BINPERSID":
            self._stack.append(_storage(self._pop()))
        elif opcode == "REDUCE":
            function, arguments = self._pop_many(2)
            self._stack.append(_call(function, arguments))
        elif opcode == "BUILD":
            self._drop_state()

    def _pop(self) -> object:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            _refuse("an instruction that takes more than there is")
        return self._stack.pop()

    def _pop_many(self, count: int) -> tuple[object, ...]:
        values = [self._pop() for _ in range(count)]
        return tuple(reversed(values))

    def _pop_to_mark(self) -> tuple[object, ...]:
        for at in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[at], _Mark):
                values = tuple(self._stack[at + 1 :])
                del self._stack[at:]
                return values
        return _refuse("an instruction that looks for a mark that is not there")

    def _remember(self, slot: object) -> None:
        if not isinstance(slot, int) or not self._stack or isinstance(self._stack[-1], _Mark):
            _refuse("a memo of nothing")
        self._memo[slot] = self._stack[-1]

    def _recall(self, slot: object) -> object:
        if not isinstance(slot, int) or slot not in self._memo:
            _refuse("a memo that was never made")
        return self._memo[slot]

    def _set_items(self, items: tuple[object, ...]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict) or len(items) % 2:
            _refuse("items for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) or len(key) > _MAX_KEY_LENGTH:
                _refuse(f"a dictionary key that is no string of at most {_MAX_KEY_LENGTH}")
            target[key] = value

    def _drop_state(self) -> None:
        # nn.Module.state_dict() carries its modules' versions as an attribute. Nothing reads it.
        state = self._pop()
        if not isinstance(state, dict) or not self._stack or not isinstance(self._stack[-1], dict):
            _refuse("state for something that is no dictionary")


def _name(text: str) -> _Name:
    if text not in _CALLABLES and text not in _STORAGES:
        _refuse(f"the name {text[:80].replace(' ', '.')!r}")
    return _Name(text)


def _storage(persistent_id: object) -> Storage:
    # ("storage", FloatStorage, "0", "cpu", 8192); the device is where it was, not where it goes.
    if isinstance(persistent_id, tuple) and len(persistent_id) == 5:
        kind, type_name, key, device, count = persistent_id
        if (
            kind == "storage"
            and isinstance(type_name, _Name)
            and type_name.text in _STORAGES
            and isinstance(key, str)
            and key.isdecimal()
            and isinstance(device, str)
            and _is_size(count)
        ):
            return Storage(_STORAGES[type_name.text], key, count)
    return _refuse("a storage that torch.save does not write")


def _call(function: object, arguments: object) -> object:
    """What a call would have made; the three functions are only recognised, never called."""
    if isinstance(function, _Name) and isinstance(arguments, tuple):
        if function.text == "collections OrderedDict" and arguments == ():
            return {}
        if function.text == "torch._utils _rebuild_parameter" and len(arguments) == 3:
            if isinstance(arguments[0], Tensor):
                return arguments[0]
        elif function.text == "torch._utils _rebuild_tensor_v2" and len(arguments) in (6, 7):
            storage, offset, shape, strides = arguments[:4]
            if (
                isinstance(storage, Storage)
                and isinstance(shape, tuple)
                and isinstance(strides, tuple)
                and len(shape) == len(strides) <= _MAX_DIMENSIONS
                and all(_is_size(number) for number in (offset, *shape, *strides))
            ):
                return Tensor(storage, offset, shape, strides)
    return _refuse("a call that makes no tensor")


def _is_size(number: object) -> TypeGuard[int]:
    return type(number) is int and 0 <= number < 1 << 63


def _refuse(found: str) -> NoReturn:
    raise InvalidFileError(
        "checkpoint-pickle",
        f"the checkpoint's pickle holds {found}; only dictionaries of float32, float16, bfloat16 and "
        "float64 tensors are read, and nothing in the file is run. Save the prompt's tensors "
        "alone: torch.save({'prompt_embeddings': tensor}, path), or as .safetensors.",
    )
