"""What a run trains on: a data set, or a YAML file that mixes some with weights, which later stages may change.

sources: {data/books: 7, data/code: 3}      # a prepared data set, and its weight
validation: data/books                      # whose validation split is evaluated; default: the first source's
later:
  - after: 80000                            # training windows of the run: steps times global_batch_size
    sources: {data/books: 5, data/new: 5}
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.files import user_path
from data_pipeline.manifest import Manifest
from data_pipeline.mixed_order import BLOCK, Stage, slots_of

_KEYS, _STAGE_KEYS = ("sources", "validation", "later"), ("after", "sources")


@dataclass(frozen=True)
class Mixture:
    """Data sets of one tokenizer in stages."""

    folder: Path
    """The file that describes it."""
    sources: tuple[Manifest, ...]
    """Of all stages, each once."""
    stages: tuple[Stage, ...]
    validation: Manifest

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return self.validation.vocab_size

    @property
    def tokenizer_sha256(self) -> str:
        """Of the tokenizer's file."""
        return self.validation.tokenizer_sha256

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return self.validation.tokenizer_path

    def verify(self, splits: list[str]) -> None:
        """Check the checksums of what is read of some splits; see `Manifest.verify`."""
        if "train" in splits:
            for source in self.sources:
                source.verify(["train"])
        if "validation" in splits:
            self.validation.verify(["validation"])

    def described(self) -> dict[str, Any]:
        """Plain values: the file, and of every stage its begin and its sources' folders, fingerprints and shares."""
        stages = [
            {
                "after": stage.after,
                "sources": [
                    {
                        "folder": str(self.sources[source].folder.resolve()),
                        "fingerprint": self.sources[source].fingerprint,
                        "share": share / BLOCK,
                    }
                    for source, share in stage.slots.items()
                ],
            }
            for stage in self.stages
        ]
        validation = {"folder": str(self.validation.folder.resolve()), "fingerprint": self.validation.fingerprint}
        return {"file": str(self.folder.resolve()), "stages": stages, "validation": validation}

    def fingerprint_at(self, samples: int) -> str:
        """SHA-256 of the stages that a run of so many samples has begun: later ones may be changed, removed or added.

        That of a data set as long as the first stage has this one alone, so that a run on it can go on with a mixture.
        """
        begun = [stage for stage in self.stages if stage.after < samples or stage is self.stages[0]]
        if len(begun) == 1 and len(begun[0].slots) == 1:
            return self.sources[next(iter(begun[0].slots))].fingerprint
        content = [
            [stage.after, [[self.sources[source].fingerprint, share] for source, share in stage.slots.items()]]
            for stage in begun
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


Data = Manifest | Mixture


def load_data(path: str | Path) -> Data:
    """A prepared data set by its folder, or a mixture by its YAML file.

    Raises:
        UserError: if it is neither, one of its data sets is none, or their tokenizers differ.
    """
    path = user_path(path)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return _read(path)
    return Manifest.load(path)


def mixture_of(data: Data) -> Mixture:
    """A data set as a mixture of one source; a mixture as it is."""
    if isinstance(data, Mixture):
        return data
    return Mixture(data.folder, (data,), (Stage(0, {0: BLOCK}),), data)


def _read(path: Path) -> Mixture:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML file ({' '.join(str(error).split())}); see docs/data.md") from error
    _check_keys(values, _KEYS, path)
    later = values.get("later") or []
    if not isinstance(later, list):
        raise UserError(f"{path}: later is {later!r}; give a list of stages, each with after and sources")
    sources: list[Manifest] = []
    stages = [Stage(0, _slots(values.get("sources"), sources, path))]
    for entry in later:
        _check_keys(entry, _STAGE_KEYS, path)
        after = entry.get("after")
        if not isinstance(after, int) or after <= stages[-1].after:
            raise UserError(
                f"{path}: after is {after!r}; give the number of training windows before that stage, larger than "
                f"{stages[-1].after}"
            )
        stages.append(Stage(after, _slots(entry.get("sources"), sources, path)))
    validation = sources[0] if "validation" not in values else _loaded(values["validation"], path)
    for other in (*sources, validation):
        if other.tokenizer_sha256 != sources[0].tokenizer_sha256:
            raise UserError(
                f"{path}: {other.folder} has another tokenizer than {sources[0].folder}; prepare it with that: "
                f"python -m data_pipeline.prepare --tokenizer {sources[0].folder}"
            )
    return Mixture(path, tuple(sources), tuple(stages), validation)


def _slots(weights: Any, sources: list[Manifest], path: Path) -> dict[int, int]:
    """A stage's shares by the number of the source, which is added to `sources` if it is new."""
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"{path}: sources is {weights!r}; give data sets with their weights, such as data/books: 7")
    numbers: list[int] = []
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"{path}: the weight of {name} is {weight!r}; give a positive number")
        numbers.append(_number(_loaded(name, path), sources))
        if numbers[-1] in numbers[:-1]:
            raise UserError(f"{path}: {name} has the content of another source of its stage; give it once")
    slots = slots_of(list(weights.values()))
    if 0 in slots:
        name = list(weights)[slots.index(0)]
        raise UserError(f"{path}: the weight of {name} is less than 1/{BLOCK} of all; leave it out or raise it")
    return dict(zip(numbers, slots, strict=True))


def _loaded(name: Any, path: Path) -> Manifest:
    """A data set that the mixture's file names."""
    try:
        return Manifest.load(str(name))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _number(manifest: Manifest, sources: list[Manifest]) -> int:
    """The place of a data set of this content among `sources`."""
    known = [source.fingerprint for source in sources]
    if manifest.fingerprint not in known:
        sources.append(manifest)
        return len(known)
    return known.index(manifest.fingerprint)


def _check_keys(values: Any, known: Sequence[str], path: Path) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{path}: {values!r} is no set of {', '.join(known)}")
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; give {', '.join(known)}")
