"""Types that sections share, and what all sections are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Probability = Annotated[float, Field(ge=0, le=1)]
BetaParameter = Annotated[float, Field(ge=0, le=100)]  # of a Beta(x, x) distribution; 0: off
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # bounds that keep a slip of the finger from hanging the counting of a net
Epochs = Annotated[int | float, AfterValidator(lambda epochs: _epochs(epochs))]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Range = Annotated[tuple[Probability, Probability], Field(strict=False)]
Zoom = Annotated[float, Field(ge=0.1, le=10)]
Sigma = Annotated[float, Field(gt=0, le=5)]
Point = Annotated[tuple[Probability, Annotated[float, Field(ge=0, le=100)]], Field(strict=False)]
Ints = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
Widths = Annotated[tuple[Width, ...], Field(strict=False)]
Branch = Annotated[tuple[Depth, Width], Field(strict=False)]
Depths = Annotated[tuple[Depth, ...], Field(strict=False)]
Channels = Annotated[tuple[Probability, Probability, Probability], Field(strict=False)]  # red, green, blue
Side = Annotated[int, Field(ge=8, le=512)]  # pixels; the upper bound keeps a slip of the finger from filling the memory
LrFactor = Annotated[float, Field(gt=0, le=10)]


def _epochs(epochs: int | float) -> int | float:
    """Bounded, so that a slip of the finger hangs no schedule's table; whole numbers are integers, for hashes."""
    if not 0 < epochs <= 100_000:
        raise ValueError(f"expected a number of epochs above 0 and at most 100,000, got {epochs:g}")
    if isinstance(epochs, float) and epochs.is_integer():
        raise ValueError(f"write {int(epochs)} instead of {epochs}")
    return epochs


class Section(BaseModel):
    """A strict, frozen part of the schema; the text below a field describes it to users."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )
    # Settings younger than the first recorded runs. A dump leaves them out while they are at their default, so that the
    # hashes of recorded configs stand.
    OMIT_DEFAULT: ClassVar[frozenset[str]] = frozenset()
    TAG: ClassVar[str] = ""  # in a union whose key may say anything; else the key's values tell its sections apart

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {key: plain[key] for key in plain if key not in self.OMIT_DEFAULT or getattr(self, key) != fields[key].default}
