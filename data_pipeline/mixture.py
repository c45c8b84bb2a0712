"""What a run trains on: a data set, or several mixed with weights, which later stages may change."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.manifest import Manifest
from data_pipeline.mixed_order import BLOCK, MixedOrder, SourceOrder, Stage


@dataclass(frozen=True)
class Mixture:
    """Data sets of one tokenizer in stages."""

    folder: Path
    """The file that describes it."""
    sources: tuple[Manifest, ...]
    """Of all stages, each once."""
    stages: tuple[Stage, ...]
    validation: Manifest
    own: tuple[SourceOrder, ...]
    """Of every source."""

    def order(self, num_windows: Sequence[int], seed: int) -> MixedOrder:
        """Source and window of every training sample.

        Args:
            num_windows: of each source.
            seed: the run's.
        """
        return MixedOrder(self.stages, num_windows, seed, self.own)

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
                        **_given(self.own[source]),
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
        first = next(iter(begun[0].slots))
        if len(begun) == 1 and len(begun[0].slots) == 1 and not _given(self.own[first]):
            return self.sources[first].fingerprint
        content = [[stage.after, [self._identity(*source) for source in stage.slots.items()]] for stage in begun]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _identity(self, source: int, share: int) -> list[Any]:
        """As of earlier versions where a source has neither epochs nor a seed."""
        own = _given(self.own[source])
        return [self.sources[source].fingerprint, share, *([own] if own else [])]


Data = Manifest | Mixture


def mixture_of(data: Data) -> Mixture:
    """A data set as a mixture of one source; a mixture as it is."""
    if isinstance(data, Mixture):
        return data
    return Mixture(data.folder, (data,), (Stage(0, {0: BLOCK}),), data, (SourceOrder(),))


def _given(own: SourceOrder) -> dict[str, int]:
    return {name: value for name, value in own._asdict().items() if value is not None}
