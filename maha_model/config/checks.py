"""Building a configuration from plain values, and errors that name the nearest valid key or choice."""

import dataclasses
import difflib
import math
import typing
from typing import Any


class ConfigError(ValueError):
    """A model configuration that cannot work. The message is one line: what, where, how to mend it."""


def build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """An instance of the dataclass `cls`; `prefix` goes before the keys in messages. Raises ConfigError."""
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; valid keys are {', '.join(known)}"
            raise ConfigError(f"unknown model setting {prefix}{key}{hint}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"model configuration: {error}") from error


def check_choices(config: object) -> None:
    """Raise ConfigError if a field annotated as a Literal has a value that is none of it."""
    for name, annotation in typing.get_type_hints(type(config)).items():
        choices, value = typing.get_args(annotation), getattr(config, name)
        if typing.get_origin(annotation) is typing.Literal and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}{hint}")


def check_finite(config: object, prefix: str = "") -> None:
    """Raise ConfigError if a field, or an entry of one, is infinite or no number; `prefix` goes before its name."""
    for name in typing.get_type_hints(type(config)):
        value = getattr(config, name)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{prefix}{name} is {value}; it must be finite")
