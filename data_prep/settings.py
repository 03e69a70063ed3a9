"""The base of all settings: typed, frozen, and strict about unknown keys."""

import pydantic


class Settings(pydantic.BaseModel):
    """Settings of one room; a recipe in ``configs/`` is checked against it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
