"""What the attributes of a net hold beside its parameters, buffers and modules."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
from torch import Tensor, nn

OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # names: _parameters, _buffers, _modules and hooks


def holds_tensor(value: object, seen: set[int]) -> bool:
    """Is this a tensor or a NumPy array, or does it hold one at any depth: a container, a dataclass, a module in a list?

    seen: ids of what is known, such as registered parameters, which do not count; grows by what is looked at.
    """
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Tensor | np.ndarray):
        return True
    if isinstance(value, nn.Module):
        inside: Iterable[object] = (*value.parameters(), *value.buffers())
    elif isinstance(value, Mapping):
        inside = (*value, *value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        inside = value
    elif is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name, None) for field in fields(value)]
    else:
        return False
    return any(holds_tensor(item, seen) for item in inside)
