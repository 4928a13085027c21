"""What torch.export refuses, in one line that names the net."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cifar_small.errors import UserError
from cifar_small.inference.predict import Net


@contextmanager
def refusals_of_torch(net: Net, form: str) -> Iterator[None]:
    """Raise UserError for whatever torch raises while it traces a net; form: the file that was to be made."""
    try:
        yield
    except Exception as error:  # of a dozen kinds, from torch's compiler and from the net's own code
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:300]
        raise UserError(
            f"{form} of {net.config.name} cannot be made: torch.export cannot trace {net.config.model.family} for any number "
            f"of images ({type(cause).__name__}: {reason}); its forward may not ask for the number of images or the values of "
            "tensors"
        ) from error
