"""Inert stand-ins for the few numpy names in a pickle of arrays: plain Python, so that no numpy code sees the file's words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

AGAIN = "download or copy the file again"
_DTYPES = frozenset(["b1", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"])


class RefusedError(ValueError):
    """What is wrong with the file; `parse_pickle` turns it into a DataError that names the file."""


class DType:
    """Stands for numpy.dtype: a code such as u1, then a byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = text_of(code)
        if self.code not in _DTYPES:
            kind = "Python objects" if self.code.startswith("O") else f"dtype {self.code[:20]!r}"
            raise RefusedError(f"holds an array of {kind}; expected plain numbers ({' '.join(sorted(_DTYPES))})")
        self.order = "<"

    def build(self, state: object) -> None:
        """Take the byte order from the state numpy writes. Raises RefusedError; numpy itself crashes on some of them."""
        if not isinstance(state, tuple) or len(state) != 8 or state[0] != 3 or any(item is not None for item in state[2:5]):
            size = len(state) if isinstance(state, tuple) else type(state).__name__
            raise RefusedError(f"holds a malformed numpy dtype (state of {size}, expected 8 items of version 3); {AGAIN}")
        self.order = text_of(state[1])
        if self.order not in ("|", "<", ">") or (self.order == "|") != self.code.endswith("1"):
            raise RefusedError(f"holds a numpy dtype {self.code} with byte order {self.order[:4]!r}; {AGAIN}")


class Array:
    """Stands for an array between its creation and its contents."""

    value: npt.NDArray[Any] | None = None

    def build(self, state: object) -> npt.NDArray[Any]:
        """The array with these contents. Raises RefusedError."""
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise RefusedError(f"holds a malformed numpy array (expected a state of 5 items, version 1); {AGAIN}")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")
        return self.value


def text_of(value: object) -> str:
    """Text, or the byte string Python 2 wrote in its place."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise RefusedError(f"has a {type(value).__name__} where text belongs; {AGAIN}")


def _array(data: object, dtype: object, shape: object, order: object = "C", axes: object = None) -> npt.NDArray[Any]:
    """A view of bytes that stand in the file; sizes are compared before numpy sees them."""
    if not isinstance(dtype, DType) or not isinstance(data, bytes | bytearray):
        raise RefusedError(f"holds a numpy array made of {type(data).__name__}; expected bytes of plain numbers; {AGAIN}")
    if not isinstance(shape, tuple) or len(shape) > 8 or any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
        raise RefusedError(f"holds a numpy array without a valid shape; {AGAIN}")
    kind = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * kind.itemsize != len(data):
        raise RefusedError(
            f"holds an array {dtype.code} {shape} with {len(data):,} bytes; "
            f"expected {math.prod(shape) * kind.itemsize:,}; {AGAIN}"
        )
    flat: npt.NDArray[Any] = np.frombuffer(data, kind) if data else np.empty(0, kind)
    order = text_of(order)
    if order == "K" and isinstance(axes, tuple):
        return flat.reshape(shape).transpose(axes)
    if order not in ("C", "F"):
        raise RefusedError(f"holds a numpy array of order {order[:4]!r}; expected C or F; {AGAIN}")
    return flat.reshape(shape, order="C" if order == "C" else "F")


def _scalar(dtype: object, data: object) -> Any:
    return _array(data, dtype, ()).item()


def _reconstruct(kind: object, shape: object, code: object) -> Array:
    if kind is not _ndarray or shape != (0,):
        raise RefusedError(f"holds a malformed numpy array; {AGAIN}")
    return Array()


def _ndarray() -> None:
    raise RefusedError(f"holds a malformed numpy array; {AGAIN}")


def encode(text: str, encoding: object) -> bytes:
    """Bytes that were written as latin1 text. Raises RefusedError."""
    if not isinstance(text, str) or text_of(encoding).replace("-", "") != "latin1":
        raise RefusedError("encodes something else than bytes as latin1 text; expected numpy arrays")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


# The only names a data file may use, by exact module and name (numpy 1 and 2 spellings), and our own function for each.
GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): DType,
    ("_codecs", "encode"): encode,  # how Python 3 writes bytes in protocols 0 to 2
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    GLOBALS[f"{_core}.multiarray", "scalar"] = _scalar
    GLOBALS[f"{_core}.numeric", "_frombuffer"] = _array
