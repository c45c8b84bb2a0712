"""Files that come with the project: configurations of runs and of DeepSpeed, found from any working directory."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: a checkout, or site-packages of an installation."""


def find_shipped(path: str | Path) -> Path:
    """`path` if it is a file from here, else the file of that name relative to the project, else `path` as it is."""
    return next((place for place in (Path(path), PROJECT / path) if place.is_file()), Path(path))
