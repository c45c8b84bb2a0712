"""`datasets.map` in the comparison: python -m eval.bench.peers.prepare_datasets TEXT TOKENIZER OUT WORKERS

TEXT is a folder of JSON lines; OUT gets `cache` and `set`, a column of tokens, each document with its begin.
"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import PreTrainedTokenizerFast


def main() -> None:
    """Read, encode in processes, save."""
    text, tokenizer_file, out, workers = sys.argv[1:]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": tokenizer(batch["text"], return_attention_mask=False)["input_ids"]}

    files = sorted(map(str, Path(text).glob("*.jsonl")))
    documents = load_dataset("json", data_files=files, split="train", cache_dir=f"{out}/cache")
    encoded = documents.map(encode, batched=True, num_proc=int(workers), remove_columns=documents.column_names)
    encoded.save_to_disk(f"{out}/set")


if __name__ == "__main__":
    main()
