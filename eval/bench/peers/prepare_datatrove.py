"""datatrove in the comparison: python -m eval.bench.peers.prepare_datatrove TEXT TOKENIZER OUT WORKERS

TEXT is a folder of JSON lines; OUT gets `logs` and `set`, files of tokens with their index, in the documents' order.
"""

import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main() -> None:
    """Read, encode in processes, save; one task a process, as every file belongs to one."""
    text, tokenizer, out, workers = sys.argv[1:]
    steps = [
        JsonlReader(text, glob_pattern="*.jsonl"),
        DocumentTokenizer(f"{out}/set", tokenizer, shuffle_documents=False),
    ]
    LocalPipelineExecutor(steps, tasks=int(workers), workers=int(workers), logging_dir=f"{out}/logs").run()


if __name__ == "__main__":
    main()
