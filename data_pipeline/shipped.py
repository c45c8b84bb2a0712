"""Files that come with the project: configurations of runs and of DeepSpeed, found from any working directory."""

from pathlib import Path

from data_pipeline.files import user_path

PROJECT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: a checkout, or site-packages of an installation."""


def find_shipped(path: str | Path) -> Path:
    """`path` if it is a file from here, else the file of that name relative to the project, else `path` as it is.

    `~` at its begin is the home folder. Raises UserError if there is none.
    """
    path = user_path(path)
    return next((place for place in (path, PROJECT / path) if place.is_file()), path)
