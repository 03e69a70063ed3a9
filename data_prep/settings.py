"""The base of all settings: typed, frozen, and strict about unknown keys."""

from typing import Annotated

import pydantic

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, pydantic.Field(gt=0, lt=1)]
Count = Annotated[int, pydantic.Field(ge=1)]


class Settings(pydantic.BaseModel):
    """Settings of one room; a recipe in ``configs/`` is checked against it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
