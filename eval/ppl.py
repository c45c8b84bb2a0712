"""Perplexity of a checkpoint: python eval/ppl.py --checkpoint RUN --data DATA [--split test] [--json]"""

import argparse
import json

from data_pipeline import Manifest, UserError, user_errors
from eval.device import best_device
from eval.scoring.evaluation import evaluate, evaluate_once


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder (its newest whole checkpoint) or a checkpoint"
    )
    parser.add_argument("--data", required=True, help="a prepared data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--context", type=int, help="tokens of a window (default: the model's context length)")
    parser.add_argument("--stride", type=int, help="tokens between windows (default: half the context)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--keep", action="store_true", help="keep the result beside the checkpoint, or take a kept one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with user_errors():
        if args.batch_size < 1:
            raise UserError(f"--batch-size is {args.batch_size}; it must be at least 1")
        manifest = Manifest.load(args.data)
        result = (evaluate_once if args.keep else evaluate)(
            args.checkpoint, manifest, args.split, args.context, args.stride, args.batch_size, args.device
        )  # fmt: skip
    score = result.score
    if args.json:
        print(json.dumps(result.to_dict()))
        return
    print(f"{result.checkpoint} on {args.data} ({args.split}), context {result.context}, stride {result.stride}")
    print(f"  perplexity per word   {score.word_perplexity:10.2f}   ({score.words:,} words)")
    print(f"  perplexity per token  {score.token_perplexity:10.2f}   ({score.tokens:,} tokens, each scored once)")
    print(f"  bits per byte         {score.bits_per_byte:10.4f}   ({score.bytes:,} bytes)")
    print(f"  bits per character    {score.bits_per_character:10.4f}   ({score.characters:,} characters)")
    print(f"  {score.tokens / result.seconds:,.0f} tokens/s")


if __name__ == "__main__":
    main()
