"""What the values of an experiment's keys may be."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Free:
    """Marks a field that may change when a run is resumed."""


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("expected a number")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", value):
        raise ValueError("a name is lower-case letters, digits, '.', '_' and '-', at most 63")
    return value


def _module_path(value: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", value):
        raise ValueError("expected module:Class")
    return value


FREE = Free()
NUMBER = BeforeValidator(_number)
# Everything ends somewhere: what is above is a slip of the finger, and the process that meets it
# at work (in a thread, in C, in float32) can only die of it.
Count = Annotated[int, Field(ge=1, le=1_000_000), NUMBER]
Frames = Annotated[int, Field(ge=1, le=10**15), NUMBER]
Width = Annotated[int, Field(ge=1, le=16_384), NUMBER]
Threads = Annotated[int, Field(ge=1, le=256), NUMBER]
Real = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False), NUMBER]
Positive = Annotated[float, Field(ge=1e-12, le=1e9, allow_inf_nan=False), NUMBER]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), NUMBER]
Seconds = Annotated[float, Field(ge=0.01, le=86_400, allow_inf_nan=False), NUMBER]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
PolicyName = Annotated[str, AfterValidator(_name)]
ModulePath = Annotated[Text, AfterValidator(_module_path)]


class Section(BaseModel):
    """A part of the experiment: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
