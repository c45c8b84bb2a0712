"""A dataclass from YAML files and dotted options, with mistakes explained in one line (jsonargparse)."""

import difflib
import re
import sys
from typing import TypeVar

import jsonargparse

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped

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
    try:
        values = parser.parse_args(_with_shipped_files(sys.argv[1:] if args is None else args))
        values.pop("config", None)
        return kind(**vars(parser.instantiate(values)))
    except jsonargparse.ArgumentError as error:
        raise UserError(_explain(str(error), list(parser.get_defaults().keys()))) from error


def _with_shipped_files(args: list[str]) -> list[str]:
    """The arguments with the files of --config found, here or beside the installed packages."""
    found = list(args)
    for index, argument in enumerate(args):
        if argument.startswith("--config="):
            found[index] = f"--config={find_shipped(argument.removeprefix('--config='))}"
        elif index and args[index - 1] == "--config":
            found[index] = str(find_shipped(argument))
    return found


def _explain(message: str, keys: list[str]) -> str:
    """jsonargparse's message in one line, with the nearest valid key where a key is unknown."""
    message = " ".join(message.split()).replace("typing.Literal", "one of ")
    nested = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
    unknown = re.search(r"unrecognized arguments: --([\w.]+)|Option '(.+?)' is not accepted", message)
    if not (nested or unknown):
        return f"configuration: {message}"
    key = ".".join(nested.groups()) if nested else next(filter(None, unknown.groups()))  # type: ignore[union-attr]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"unknown configuration key {key}; " + (f"did you mean {near[0]}?" if near else "see --help for all of them")
