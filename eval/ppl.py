"""Perplexity of a checkpoint: python eval/ppl.py --checkpoint RUN (--data DATA [--split test] | --text FILE) [--json]

Under torchrun all processes score together: windows in turn, or with --context-parallel P each in P parts.
"""

from data_pipeline import CommandParser, Manifest, UserError, at_least, user_errors, user_path
from data_pipeline.json_text import to_json
from eval.device import add_device_option
from eval.ranks import is_printed_by_rank_0, launched_ranks
from eval.scoring.evaluation import evaluate, evaluate_once
from eval.scoring.texts import SplitOfData, TextFile
from eval.undefined import quotient, shown
from maha_model import ConfigError


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder (its newest whole checkpoint) or a checkpoint"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="a prepared data set")
    source.add_argument("--text", metavar="FILE", help="a text, JSON or parquet file, in the checkpoint's tokenizer")
    parser.add_argument("--split", help="of the data set (default: test)")
    parser.add_argument("--context", type=at_least(1), help="tokens of a window (default: the model's context length)")
    parser.add_argument("--stride", type=at_least(1), help="tokens between windows (default: half the context)")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="windows per forward pass")
    add_device_option(parser)
    parser.add_argument(
        "--sparsity", type=float, help="another aggregation.sparsity (with gate: threshold); the score work is counted"
    )
    parser.add_argument("--keep", action="store_true", help="keep the result beside the checkpoint, or take a kept one")
    parser.add_argument(
        "--context-parallel", type=at_least(1), default=1, help="processes of a launch that share a window (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with (
        user_errors(ConfigError, quiet=is_printed_by_rank_0),
        launched_ranks(args.context_parallel, args.device) as (ranks, device),
    ):
        if args.keep and args.sparsity is not None:
            raise UserError("--keep is for the model as it was trained; leave out --keep or --sparsity")
        if ranks.count > 1 and (args.keep or args.sparsity is not None):
            raise UserError("--keep and --sparsity are for one process; leave them out, or start one")
        window = (args.context, args.stride, args.batch_size, device)
        if args.text is not None:
            if args.split is not None or args.keep:
                raise UserError("--split and --keep are for a data set; leave them out with --text, or give --data")
            result = evaluate(args.checkpoint, TextFile(user_path(args.text)), *window, args.sparsity, ranks)
        else:
            manifest, split = ranks.each(lambda: Manifest.load(args.data)), args.split or "test"
            if args.keep:
                result = evaluate_once(args.checkpoint, manifest, split, *window)
            else:
                result = evaluate(args.checkpoint, SplitOfData(manifest, split), *window, args.sparsity, ranks)
    if not ranks.is_main:
        return
    score, speed = result.score, quotient(result.score.tokens, result.seconds)
    if args.json:
        print(to_json(result.to_dict()))
        return
    scored = args.text or f"{args.data} ({result.split})"
    print(f"{result.checkpoint} on {scored}, context {result.context}, stride {result.stride}")
    print(f"  perplexity per word   {shown(score.word_perplexity, 2):>10}   ({score.words:,} words)")
    print(
        f"  perplexity per token  {shown(score.token_perplexity, 2):>10}   ({score.tokens:,} tokens, each scored once)"
    )
    print(f"  bits per byte         {shown(score.bits_per_byte, 4):>10}   ({score.bytes:,} bytes)")
    print(f"  bits per character    {shown(score.bits_per_character, 4):>10}   ({score.characters:,} characters)")
    if result.score_work is not None:
        print(f"  score work            {shown(result.score_work, 0):>10}   (multiply-adds per token)")
    print(f"  {shown(speed, 0)} tokens/s")


if __name__ == "__main__":
    main()
