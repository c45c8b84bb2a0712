"""The YAML file of a mixture: data sets with weights, which later stages may change.

sources:
  data/books: 7                             # a prepared data set, and its weight
  data/code: {weight: 3, epochs: 2, seed: 5}
validation: data/books                      # whose validation split is evaluated; default: the first source's
later:
  - after: 80000                            # training windows of the run: steps times global_batch_size
    sources: {data/books: 5, data/new: 5}

After its `epochs` a source gives no more windows, and the others share its place; `seed` is of the order of its
windows, by default the run's. Both stand where a source is first named, and hold in all stages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.errors import UserError
from data_pipeline.files import user_path
from data_pipeline.manifest import Manifest
from data_pipeline.mixed_order import BLOCK, SourceOrder, Stage, slots_of
from data_pipeline.mixture import Data, Mixture
from data_pipeline.yaml_text import read_yaml

_KEYS, _STAGE_KEYS = ("sources", "validation", "later"), ("after", "sources")
_MOST, _MOST_WINDOWS = 10**9, 10**15
"""Of epochs and seeds, and of windows: more than a run has, and far from the end of 64 bits."""
_SOURCE_KEYS = ("weight", "epochs", "seed")


class _Source(NamedTuple):
    manifest: Manifest
    own: SourceOrder


def load_data(path: str | Path) -> Data:
    """A prepared data set by its folder, or a mixture by its YAML file.

    Raises:
        UserError: if it is neither, one of its data sets is none, or their tokenizers differ.
    """
    path = user_path(path)
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return _read(path)
    return Manifest.load(path)


def _read(path: Path) -> Mixture:
    values = read_yaml(path)
    _check_keys(values, _KEYS, path)
    later = values.get("later") or []
    if not isinstance(later, list):
        raise UserError(f"{path}: later is {later!r}; give a list of stages, each with after and sources")
    sources: dict[str, _Source] = {}
    stages = [Stage(0, _slots(values.get("sources"), sources, path))]
    for entry in later:
        _check_keys(entry, _STAGE_KEYS, path)
        after = entry.get("after")
        if isinstance(after, bool) or not isinstance(after, int) or not stages[-1].after < after <= _MOST_WINDOWS:
            raise UserError(
                f"{path}: after is {after!r}; give the number of training windows before that stage, larger than "
                f"{stages[-1].after}"
            )
        stages.append(Stage(after, _slots(entry.get("sources"), sources, path)))
    manifests = [source.manifest for source in sources.values()]
    validation = manifests[0] if "validation" not in values else _loaded(values["validation"], path)
    for other in (*manifests, validation):
        if other.tokenizer_sha256 != manifests[0].tokenizer_sha256:
            raise UserError(
                f"{path}: {other.folder} has another tokenizer than {manifests[0].folder}; prepare it with that: "
                f"python -m data_pipeline.prepare --tokenizer {manifests[0].folder}"
            )
    return Mixture(path, tuple(manifests), tuple(stages), validation, tuple(source.own for source in sources.values()))


def _slots(given: Any, sources: dict[str, _Source], path: Path) -> dict[int, int]:
    """A stage's shares by the number of the source, which is added to `sources` if it is new."""
    if not isinstance(given, dict) or not given:
        raise UserError(f"{path}: sources is {given!r}; give data sets with their weights, such as data/books: 7")
    numbers, weights = list[int](), list[float]()
    for name, values in given.items():
        values = values if isinstance(values, dict) else {"weight": values}
        _check_keys(values, _SOURCE_KEYS, path)
        weight, own = values.get("weight"), SourceOrder(values.get("seed"), values.get("epochs"))
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"{path}: the weight of {name} is {weight!r}; give a positive number")
        for option, value, least in (("epochs", own.epochs, 1), ("seed", own.seed, 0)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST
            ):
                raise UserError(f"{path}: {option} of {name} is {value!r}; give a whole number from {least} to {_MOST}")
        manifest = _loaded(name, path)
        known = sources.setdefault(manifest.fingerprint, _Source(manifest, own))
        if own not in (SourceOrder(), known.own):
            raise UserError(
                f"{path}: {name} has epochs or a seed in a later stage; give both where it is first named, for "
                "all stages"
            )
        numbers.append(list(sources).index(manifest.fingerprint))
        weights.append(weight)
        if numbers[-1] in numbers[:-1]:
            raise UserError(f"{path}: {name} has the content of another source of its stage; give it once")
    slots = slots_of(weights)
    if 0 in slots:
        name = list(given)[slots.index(0)]
        raise UserError(f"{path}: the weight of {name} is less than 1/{BLOCK} of all; leave it out or raise it")
    return dict(zip(numbers, slots, strict=True))


def _loaded(name: Any, path: Path) -> Manifest:
    """A data set that the mixture's file names."""
    try:
        return Manifest.load(str(name))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_keys(values: Any, known: Sequence[str], path: Path) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{path}: {values!r} is no set of {', '.join(known)}")
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; give {', '.join(known)}")
