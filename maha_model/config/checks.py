"""Building a configuration from plain values, and errors that name the nearest valid key or choice."""

import dataclasses
import difflib
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


def one_of(config: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError if the field `name` is not one of `choices`."""
    value = getattr(config, name)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}{hint}")
