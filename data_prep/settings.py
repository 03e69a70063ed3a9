"""The base class of all settings, and the types of their fields."""

from typing import Annotated

import pydantic

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
"""A finite number of 0 or more."""
Fraction = Annotated[float, pydantic.Field(gt=0, lt=1)]
"""A number above 0 and below 1."""
Count = Annotated[int, pydantic.Field(ge=1)]
"""A whole number of 1 or more."""


class Settings(pydantic.BaseModel):
    """Settings of one part of the program: typed, frozen, without unknown keys.

    The recipes in ``configs/`` are checked against these classes.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
