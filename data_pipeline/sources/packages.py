"""Installed packages: where their Python sources are and of which version, found without importing them."""

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A module or package at the top level, by its import name."""

    name: str
    version: str
    """Its distribution and version, such as `PyYAML 6.0.3`; of a standard module `json of Python 3.11.7`."""
    places: tuple[Path, ...]
    """Its file, or its folders: a namespace package can have several."""


def installed_packages(names: Iterable[str]) -> dict[str, list[Package]]:
    """For each name, that of an import or of a distribution, its packages that have files; an empty list if none."""
    names = list(names)
    # (reads what is installed: half a second in a large environment, which a path does not need)
    distributions = packages_distributions() if any(os.sep not in name for name in names) else {}
    return {name: _packages(name, distributions) for name in names}


def _packages(name: str, distributions: Mapping[str, list[str]]) -> list[Package]:
    standard = name in sys.stdlib_module_names
    if standard or name in distributions:
        modules = [name]
    else:
        modules = sorted(module for module, owners in distributions.items() if _plain(name) in map(_plain, owners))
    packages = []
    for module in modules:
        owners = sorted(set(distributions.get(module, ())))
        described = ", ".join(f"{owner} {version(owner)}" for owner in owners)
        if standard:
            described = f"{module} of Python {platform.python_version()}"
        places = _places(module)
        if places:
            packages.append(Package(module, described, places))
    return packages


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _places(module: str) -> tuple[Path, ...]:
    # for a name with a dot, find_spec would import what is before it
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(sorted(map(Path, spec.submodule_search_locations)))
    return (Path(spec.origin),) if spec.has_location and spec.origin else ()
