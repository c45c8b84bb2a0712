"""Files of settings: read, merged, made into dataclasses, with errors that name the nearest valid key."""

import copy
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped
from data_pipeline.yaml_text import read_yaml

_WORDS = {
    "int_type": "a whole number", "float_type": "a number, such as 0.003", "string_type": "a word",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping",
}  # fmt: skip
"""What is asked for, by pydantic's name of the error."""
_PLAIN = (int, float, str, bool, list, dict, Any, type(None))


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

    A field is checked whose type is made of numbers, words, lists and mappings alone, with all that is in it. Whole
    numbers are numbers too, and nothing else is converted (pydantic's strict mode).
    """
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        key, hint = f.metadata.get("key", f.name), hints[f.name]
        if key not in values or not _is_plain(hint):
            continue
        try:
            _checker(hint).validate_python(values[key])
        except ValidationError as errors:
            error = errors.errors()[0]
            place, verb = (key, *error["loc"]), "is"
            if place[-1] == "[key]":
                place, verb = place[:-2], "has the key"
            what = f"{'.'.join(map(str, place))} {verb} {error['input']!r}"
            raise UserError(f"{where}: {what}; give {_WORDS[error['type']]}") from errors


def _is_plain(hint: Any) -> bool:
    return hint in _PLAIN or (bool(typing.get_args(hint)) and all(map(_is_plain, typing.get_args(hint))))


@functools.cache
def _checker(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True))


def check_mapping(values: object, where: str) -> None:
    """Raises UserError if it is no mapping."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {values!r}; give a mapping")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: the known one that is near it, or all of them."""
    choices = list(known)
    near = difflib.get_close_matches(str(word), choices, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(choices)}"
