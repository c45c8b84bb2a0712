"""A dataclass from YAML files and dotted options, with mistakes explained in one line (jsonargparse)."""

import dataclasses
import difflib
import itertools
import re
import sys
import typing
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped
from data_pipeline.yaml_text import read_yaml

T = TypeVar("T")


def parse_dataclass(kind: type[T], args: list[str] | None, prog: str, description: str) -> T:
    """The instance of `kind` that command-line arguments (None: sys.argv's) describe; `--config FILE` reads YAML.

    Raises:
        UserError: for an unknown key (with the nearest valid one) or a value of the wrong type.
        SystemExit: for --help and --print_config.
    """
    parser = jsonargparse.ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file; later options override it")
    parser.add_class_arguments(kind)
    _check_paths(kind, sys.argv[1:] if args is None else args)
    try:
        values = parser.parse_args(_with_shipped_files(kind, sys.argv[1:] if args is None else args))
        values.pop("config", None)
        return kind(**vars(parser.instantiate(values)))
    except jsonargparse.ArgumentError as error:
        raise UserError(_explain(str(error), list(parser.get_defaults().keys()))) from error


def _check_paths(kind: type, args: list[str]) -> None:
    """Raise UserError for an empty path, which to pathlib is the current folder: a shell's variable that is not set."""
    for name, hint in typing.get_type_hints(kind).items():
        if hint is Path and (f"--{name}=" in args or (f"--{name}", "") in itertools.pairwise(args)):
            raise UserError(f"--{name} is empty; give a path, or leave it out")


def _with_shipped_files(kind: type, args: list[str]) -> list[str]:
    """The arguments with the files of --config found, here or beside the installed packages, and looked at."""
    found = list(args)
    for index, argument in enumerate(args):
        prefix = "--config=" if argument.startswith("--config=") else ""
        if prefix or (index and args[index - 1] == "--config"):
            path = find_shipped(argument.removeprefix(prefix))
            _check_file(kind, read_yaml(path), path)
            found[index] = f"{prefix}{path}"
    return found


def _check_file(kind: type, values: Any, path: Path, prefix: str = "") -> None:
    """Raise UserError if the value of a group of settings is a single value."""
    if not isinstance(values, dict):
        name = prefix.rstrip(".") or "its content"
        raise UserError(f"configuration {path}: {name} is {values!r}; give settings, each with its name")
    for field in dataclasses.fields(kind):
        if field.name in values and dataclasses.is_dataclass(field.default_factory):
            _check_file(field.default_factory, values[field.name], path, f"{prefix}{field.name}.")


_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def _explain(message: str, keys: list[str]) -> str:
    """jsonargparse's message in one line, with the nearest valid key where a key is unknown."""
    message = " ".join(message.split()).replace("typing.Literal", "one of ")
    unknown = re.search(
        r"Group '(.+?)' does not accept option '(.+?)'|Option '(.+?)' is not accepted"
        r"|unrecognized arguments: --([\w.]+)|Parser key \"(.+?)\": .*NestedArg\(key='(.+?)'",
        message,
    )
    if unknown:
        key = ".".join(filter(None, unknown.groups()))
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see --help for all of them"
        return f"unknown configuration key {key}; {hint}"
    wrong = re.fullmatch(r"Parser key \"(.+?)\": (.*)(?:Got|Given) value: (.*)", message)
    if wrong and (expected := re.findall(r"Expected a (?:<class '(\w+)'>|one of \[(.+?)\])", wrong[2])):
        key, value = wrong[1], wrong[3]
        kinds = [_TYPES.get(name, name) or " or ".join(re.findall(r"[^', ]+", choices)) for name, choices in expected]
        return f"configuration: {key} is {value}; give {' or '.join(kinds)}"
    if group := re.search(r"Parser key \"(.+?)\": Unable to load config '(.*?)'", message):
        return f"configuration: {group[1]} is {group[2]}; give its settings, each with its name"
    return f"configuration: {message}"
