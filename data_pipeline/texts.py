"""What the documents of a data set have in common, found by the hashes of their texts."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.document_table import read_hashes
from data_pipeline.manifest import Manifest
from data_pipeline.shards import Split
from data_pipeline.sorting import Rows, new_values, sorted_ranges


def warnings_of(manifest: Manifest) -> list[str]:
    """One line each for what a user should check in a data set, found in bounded memory."""
    splits, left_out = manifest.splits, manifest.left_out
    copies, shared = _copies(manifest.folder, splits)
    lines = []
    if left_out:
        lines.append(f"{left_out} documents have no text and are left out")
    if manifest.divided and copies:
        lines.append(f"{copies} documents are copies of others; all copies of a text are in one split")
    if shared:
        pairs = [(later, first) for later in splits for first in splits if shared[later, first]]
        found = ", ".join(f"{shared[later, first]} of {later} are in {first}" for later, first in pairs)
        lines.append(f"the splits share documents ({found}): a score on them is not one on new text")
    return lines


def _copies(folder: Path, splits: dict[str, Split]) -> tuple[int, Counter[tuple[str, str]]]:
    """Documents whose text comes before; and of those the ones that are in a later split than the first of them."""
    names = list(splits)

    def hashes() -> Iterator[Rows]:
        """Hash and split of every document."""
        for number, split in enumerate(splits.values()):
            for shard in split.shards:
                for rows in read_hashes(folder / shard.name):
                    yield np.concatenate([rows, np.full((len(rows), 1), number, np.uint64)], axis=1)

    copies, shared = 0, Counter[tuple[str, str]]()
    for rows in sorted_ranges(hashes, sum(split.documents for split in splits.values())):
        new = new_values(rows[:, :2])
        copies += int((~new).sum())
        split = rows[:, 2].astype(np.int64)
        first = split[new][np.cumsum(new) - 1]  # copies are sorted by their splits
        pairs, counts = np.unique(np.stack([split, first])[:, split != first], axis=1, return_counts=True)
        for (later, earlier), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            shared[names[later], names[earlier]] += count
    return copies, shared
