"""Read the pickles image data comes in without running anything that is in them.

`pickle.load` runs what the file says, and even a list of allowed names lets a damaged file crash the interpreter inside
numpy or ask for gigabytes. So the few instructions a data file needs are carried out here: dicts, lists, tuples, numbers,
text, bytes, and numpy arrays of numbers, which are views of bytes that already stand in the file. No name is ever imported.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_small.data.formats import other_format
from cifar_small.data.numpy_stubs import AGAIN, GLOBALS, Array, DType, RefusedError, encode, text_of
from cifar_small.errors import DataError

MAX_BYTES = 512 * 2**20  # the largest real file, CIFAR-100's training part, has 155 MB
MAX_OPCODES = 2_000_000  # that file has 150,000


class _Machine:
    """A pickle's stack, marks and memo."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.stream = io.BytesIO(raw)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.at = 0  # where the current instruction starts
        self.to_encode = len(raw)  # characters _codecs.encode may still copy; without it a memoized text multiplies

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            self.at = self.stream.tell()
            code = self.stream.read(1)
            if not code:
                raise self.ends("before its end mark")
            if code == b".":
                return _checked(self.stack.pop())
            if code not in _OPCODES:
                raise self.refuse_opcode(code)
            name, read, act = _OPCODES[code]
            try:
                argument = read(self.stream) if read else None
            except Exception as error:
                if self.stream.tell() < len(self.raw):
                    raise
                raise self.ends(f"inside the {name} that starts at byte {self.at:,} ({error})") from error
            act(self, argument)
        raise RefusedError(f"has more than {MAX_OPCODES:,} instructions; expected images as one numpy array; save them as one")

    def ends(self, where: str) -> RefusedError:
        return RefusedError(f"the file ends at byte {len(self.raw):,} {where}; expected a whole pickle; {AGAIN}")

    def refuse_opcode(self, code: bytes) -> RefusedError:
        known = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}
        if code == b"i":
            module, name = (self.stream.readline(200).decode("latin-1").strip() for _ in range(2))
            return self.refuse_global(module, name)
        if code in known and self.at:
            return RefusedError(f"uses {known[code]} at byte {self.at:,}, which image data does not need; nothing was run")
        what = "is not a pickle" if not self.at else "is a damaged pickle"
        return RefusedError(
            f"{what}: byte {self.at:,} is {code!r}, the file starts with {self.raw[:16]!r}; expected a pickle; {AGAIN}"
        )

    def refuse_global(self, module: str, name: str) -> RefusedError:
        return RefusedError(
            f"asks to run {module[:80]}.{name[:80]} (byte {self.at:,}); nothing was run; expected only numpy arrays, "
            "numbers and text; get the file from its official source"
        )

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def drop_mark(self, _: None) -> None:
        self.pop_mark()

    def dict_of_mark(self, _: None) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise RefusedError(f"is a damaged pickle (nothing to group at byte {self.at:,}); {AGAIN}")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def frame(self, length: int) -> None:
        if length > len(self.raw) - self.stream.tell():
            raise self.ends(f"but a frame at byte {self.at:,} has {length:,} bytes")

    def proto(self, version: int) -> None:
        if version > 5:
            raise RefusedError(f"has pickle protocol {version}; expected 0 to 5; {AGAIN}")

    def extend(self, items: list[Any]) -> None:
        self.target(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.target(dict)
        if len(items) % 2:
            raise RefusedError(f"has a key without a value at byte {self.at:,}; {AGAIN}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys could be made to cost hours to hash or compare.
            if not isinstance(key, str | bytes) and (type(key) is not int or abs(key) >= 2**31):
                raise RefusedError(f"has a dict key of type {type(key).__name__}; expected text such as 'data' and 'ids'")
            target[key] = value

    def target(self, kind: type[Any]) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise RefusedError(f"is a damaged pickle (no {kind.__name__} at byte {self.at:,}); {AGAIN}")
        return self.stack[-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        self.push(value.value if isinstance(value, Array) and value.value is not None else value)

    def look_up(self, module: object, name: object) -> None:
        key = (text_of(module), text_of(name))
        if key not in GLOBALS:
            raise self.refuse_global(*key)
        self.push(GLOBALS[key])

    def reduce(self, _: None) -> None:
        arguments, stub = self.stack.pop(), self.stack.pop()
        # Arrays on the stack compare by element, so the stub is looked for by identity.
        if not isinstance(arguments, tuple) or not any(stub is known for known in GLOBALS.values()):
            raise RefusedError(f"is a damaged pickle (nothing to build at byte {self.at:,}); {AGAIN}")
        if stub is encode:
            self.to_encode -= len(arguments[0])
            if self.to_encode < 0:
                raise RefusedError("holds the same text many times over; expected bytes no longer than the file")
        self.push(stub(*arguments))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, DType):
            target.build(state)
        elif isinstance(target, Array):
            self.stack[-1] = target.build(state)
        else:
            raise RefusedError(f"sets the state of a {type(target).__name__} at byte {self.at:,}; expected only numpy arrays")


def _checked(root: Any) -> Any:
    """The value, when nothing half-built is left anywhere in it, and whoever walks through it has an end to it.

    A list that stands at many places counts as often: a few bytes can describe one of 2**100 items.
    """
    items: dict[int, int] = {}  # of each list, tuple and dict, at any depth; 0 until all that is in it was counted
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        value, counted = waiting.pop()
        if isinstance(value, dict | list | tuple):
            inside = value.values() if isinstance(value, dict) else value
            if counted:
                sizes = [items[id(one)] if isinstance(one, dict | list | tuple) else 1 for one in inside]
                items[id(value)] = 1 + sum(sizes)
                if 0 in sizes or items[id(value)] > MAX_OPCODES:
                    what = "contains itself" if 0 in sizes else f"holds more than {MAX_OPCODES:,} items"
                    raise RefusedError(
                        f"has a {type(value).__name__} that {what}; expected images and ids, each once; save it anew"
                    )
            elif id(value) not in items:
                items[id(value)] = 0
                waiting.append((value, True))
                waiting.extend((one, False) for one in inside)
        elif not (value is None or isinstance(value, bool | int | float | str | bytes | bytearray | np.ndarray)):
            raise RefusedError(f"holds an unfinished numpy object; {AGAIN}")
    return root


def _read_string(stream: io.BytesIO) -> bytes:
    """The quoted byte string of protocol 0, which pickletools reads only when it is ASCII."""
    line = stream.readline()
    text = line.strip()
    if not line.endswith(b"\n") or len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("a quoted string without its end")
    return text[1:-1].decode("unicode_escape").encode("latin-1")


def _read_bytes(stream: io.BytesIO, width: int) -> bytes:
    """A byte string of Python 2, which pickletools would hand over as text; `width` is that of its length."""
    length = int.from_bytes(stream.read(width), "little")
    data = stream.read(length)
    if len(data) != length:
        raise ValueError(f"expected {length:,} bytes, {len(data):,} remain")
    return data


_Act = Callable[[_Machine, Any], None]

# What each allowed instruction does with its argument. Sets, classes, extensions and outside buffers are absent.
_ACTS: dict[str, _Act] = {
    "PROTO": _Machine.proto,
    "FRAME": _Machine.frame,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "DICT": _Machine.dict_of_mark,
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": lambda m, names: m.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.look_up(m.stack.pop(-2), m.stack.pop()),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
_ACTS |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put)
_ACTS |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get)
_ACTS |= dict.fromkeys(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING"], _Machine.push)
_ACTS |= dict.fromkeys(["UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"], _Machine.push)
_ACTS |= dict.fromkeys(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"], _Machine.push)

_OPCODES: dict[bytes, tuple[str, Callable[[Any], Any] | None, _Act]] = {
    op.code.encode("latin-1"): (op.name, op.arg.reader if op.arg else None, _ACTS[op.name])
    for op in pickletools.opcodes
    if op.name in _ACTS
} | {
    b"S": ("STRING", _read_string, _Machine.push),
    b"T": ("BINSTRING", lambda stream: _read_bytes(stream, 4), _Machine.push),
    b"U": ("SHORT_BINSTRING", lambda stream: _read_bytes(stream, 1), _Machine.push),
}


def parse_pickle(raw: bytes, where: str) -> Any:
    """The value of a pickle of plain data: dict, list, tuple, str, bytes, numbers, None and numpy arrays of numbers.

    Byte strings of Python 2 are bytes; arrays are views of `raw`, most of them read-only. Nothing in the file is run, and
    memory stays within a few times its size. `where` names the file in messages. Raises DataError.
    """
    if not raw:
        raise DataError(f"{where}: is empty (0 bytes); expected a pickle; {AGAIN}")
    if other := other_format(raw[:512], where, len(raw)):
        raise DataError(f"{where}: {other}; expected a .pkl file or a CIFAR python batch")
    machine = _Machine(raw)
    try:
        return machine.run()
    except RefusedError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:
        why, start = f"{type(error).__name__}: {error}"[:120], raw[:16]
        what = "is a damaged pickle" if machine.at else "is not a pickle"
        raise DataError(
            f"{where}: {what} (byte {machine.at:,} of {len(raw):,}: {why}); it starts with {start!r}; "
            f"expected a pickle of numpy arrays; {AGAIN}"
        ) from error


def read_pickle(path: str | Path) -> Any:
    """The value of a pickle file, as `parse_pickle` reads it. Raises DataError, also when there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {'is not a regular file' if path.exists() else 'there is no such file'}; expected a pickle")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: has {size:,} bytes; expected at most {MAX_BYTES:,}; split it or save uint8 images")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a readable pickle") from error
    return parse_pickle(raw, str(path))
