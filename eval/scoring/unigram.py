"""The unigram model of the training split: the perplexity that any trained model has to beat."""

import numpy as np
import numpy.typing as npt

from data_pipeline import Manifest, read_documents
from eval.scoring.perplexity import Score


def token_counts(manifest: Manifest, split: str = "train") -> npt.NDArray[np.int64]:
    """Occurrences of every token id in a split: (V,) int64."""
    counts = np.zeros(manifest.vocab_size, dtype=np.int64)
    for shard in manifest.open_shards(split):
        counts += np.bincount(shard.tokens, minlength=manifest.vocab_size)
    return counts


def unigram_score(manifest: Manifest, split: str) -> Score:
    """Score of the training split's token frequencies, add-one smoothed, on `split`."""
    counts = token_counts(manifest) + 1.0
    surprise = -np.log(counts / counts.sum())
    return Score.total(
        Score.of(float(surprise[document.tokens[1:]].sum()), document.info)
        for document in read_documents(manifest, split)
    )
