"""The fingerprint that is computed piece by piece is that of format 2's definition."""

import hashlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.fingerprint import FingerprintedShard, content_fingerprint

statistics = st.lists(st.integers(0, 2**40), min_size=4, max_size=4)
shards = st.builds(
    FingerprintedShard,
    st.text(max_size=4), st.integers(0, 2**40), st.text(max_size=4), st.text(max_size=4),
    st.lists(st.lists(statistics, max_size=2), max_size=2),
)  # fmt: skip


@settings(max_examples=25)
@given(
    splits=st.dictionaries(st.text(max_size=3), st.lists(shards, max_size=2), max_size=3),
    vocab_size=st.integers(1, 2**20),
)
def test_it_is_the_hash_of_the_definition(splits: dict[str, list[FingerprintedShard]], vocab_size: int) -> None:
    content = {
        "format": 2,
        "tokenizer": "7" * 64,
        "vocab": vocab_size,
        "splits": {
            name: [[*shard[:-1], [one for some in shard.documents for one in some]] for shard in split]
            for name, split in splits.items()
        },
    }
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert content_fingerprint("7" * 64, vocab_size, splits) == expected
