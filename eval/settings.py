"""Files of settings: read, merged, made into dataclasses, with errors that name the nearest valid key."""

import copy
import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped
from data_pipeline.yaml_text import read_yaml

_WORDS = {int: "a whole number", float: "a number, such as 0.003", str: "a word", list: "a list", dict: "a mapping"}
_ACCEPTED: dict[type, Any] = {float: (int, float)}


def read_mapping(path: Path, kind: str, examples: str) -> dict[str, Any]:
    """The values of a YAML file, here or among the shipped ones.

    Raises:
        UserError: if it cannot be read or is no mapping; it names the file as a `kind`, and the folder of `examples`.
    """
    try:
        values = read_yaml(find_shipped(path))
    except UserError as error:
        raise UserError(f"the {kind} {error}; see {examples}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is no {kind}; see {examples} for examples")
    return values


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with the values of `override`, mapping by mapping."""
    result = copy.deepcopy(dict(base))
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls`; a field may have another name among the values, its metadata's `key`.

    Raises:
        UserError: for an unknown or a missing key, a value of another type, or one that the class itself refuses; its
            message begins with `where`.
    """
    known = {f.metadata.get("key", f.name): f for f in fields(cls)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key}{nearest(key, known)}")
    required = [key for key, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in values]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} is missing")
    check_types(cls, values, where)
    try:
        return cls(**{known[key].name: value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_types(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a value of another type than the field of the dataclass `cls`; unknown keys are passed over.

    A field is checked whose type is a number, a word, a list or a mapping, or one of these or None.
    """
    hints = typing.get_type_hints(cls)
    names = {f.metadata.get("key", f.name): f.name for f in fields(cls)}
    for key, value in values.items():
        if key not in names:
            continue
        hint = hints[names[key]]
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        optional = isinstance(hint, UnionType) and len(choices) == 1
        if optional and value is None:
            continue
        plain = choices[0] if optional else hint
        kind = typing.get_origin(plain) or plain
        if kind in _WORDS and (not isinstance(value, _ACCEPTED.get(kind, kind)) or isinstance(value, bool)):
            raise UserError(f"{where}: {key} is {value!r}; give {_WORDS[kind]}")


def check_mapping(values: object, where: str) -> None:
    """Raises UserError if it is no mapping."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {values!r}; give a mapping")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: the known one that is near it, or all of them."""
    choices = list(known)
    near = difflib.get_close_matches(str(word), choices, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(choices)}"
