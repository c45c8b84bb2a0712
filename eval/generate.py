"""Continue a text: python -m eval.generate --checkpoint RUN --prompt TEXT [--max-tokens N] [--temperature T] [--json]

The text is written as it is made, from a state of constant size: the cost of a token does not grow with the length.
It ends at --max-tokens, where the model ends the document, or before the first --stop string. Without --prompt and
--prompt-file the prompt is read from standard input. --compile makes every token faster after some seconds of
compiling, so it pays for thousands of tokens. Several processes (torchrun --nproc-per-node P -m eval.generate) share a
long prompt; the last of them goes on alone, and writes.
"""

import argparse
import sys
import time

from data_pipeline import CommandParser, Tokenizer, UserError, at_least, tokenizer_file, user_errors, user_path
from data_pipeline.json_text import to_json
from eval.device import add_device_option
from eval.ranks import Ranks, is_printed_by_rank_0, launched_ranks
from eval.undefined import quotient
from maha_model import ConfigError, ModelConfig
from maha_model.inference import Sampling, generate
from maha_model.parallel import ContextSplit
from pretrain.checkpoint import find_checkpoint, load_model


def read_prompt(prompt: str | None, file: str | None) -> str:
    """The prompt given, or of a file, or of standard input. Raises UserError if there is none or it is not UTF-8."""
    if prompt is not None:
        return prompt
    name = file or "standard input"
    try:
        return (user_path(file).read_bytes() if file else sys.stdin.buffer.read()).decode()
    except FileNotFoundError as error:
        raise UserError(f"--prompt-file {file} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start}; give the prompt as UTF-8 text") from error


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder (its newest whole checkpoint) or a checkpoint"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", help="the text to continue; may be empty")
    source.add_argument("--prompt-file", metavar="FILE", help="a UTF-8 file with the text to continue")
    parser.add_argument("--max-tokens", type=at_least(0), default=256)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: 1)")
    parser.add_argument("--top-k", type=at_least(1), help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that share the probability P")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    parser.add_argument("--compile", action="store_true", help="compile the step of a token: for thousands of tokens")
    add_device_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, the text in it, when all is done")
    args = parser.parse_args()
    pieces: list[str] = []

    def write(text: str) -> None:
        pieces.append(text)
        if not args.json and text:
            print(text, end="", flush=True)

    with (
        user_errors(ConfigError, FloatingPointError, quiet=_is_printed_by_rank_0),
        launched_ranks(None, args.device) as (ranks, device),
    ):
        if "" in args.stop:
            raise UserError("--stop is empty; give the text to end before")
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
        if ranks.count > 1 and args.prompt is None and args.prompt_file is None:
            raise UserError("several processes cannot share standard input; give --prompt or --prompt-file")
        prompt = ranks.each(lambda: read_prompt(args.prompt, args.prompt_file))
        path = ranks.each(lambda: find_checkpoint(args.checkpoint))
        model = ranks.each(lambda: load_model(path, device))
        tokenizer = ranks.each(lambda: Tokenizer(tokenizer_file(path)))
        start = time.perf_counter()
        count, ended = generate(
            model, tokenizer, prompt, args.max_tokens, sampling, args.seed, args.stop, write, args.compile,
            lambda length: _part(ranks, length, model.config),
        )  # fmt: skip
        seconds = time.perf_counter() - start
    if ranks.rank < ranks.count - 1:
        return
    if not args.json:
        print()
        return
    result = {"checkpoint": str(path), "prompt": prompt, "text": "".join(pieces), "ended_by": ended, "tokens": count}
    print(to_json({**result, "seed": args.seed, "seconds": seconds, "tokens_per_s": quotient(count, seconds)}))


def _part(ranks: Ranks, length: int, config: ModelConfig) -> ContextSplit | None:
    most = -(-length // config.context_unit)
    if most < ranks.count:
        raise UserError(
            f"a prompt of {length} tokens cannot be shared by {ranks.count} processes in parts of at least "
            f"{config.context_unit} tokens; give a longer prompt, or start at most {most}"
        )
    return ranks.split(length, config)


def _is_printed_by_rank_0(error: Exception) -> bool:
    return is_printed_by_rank_0(error) and not isinstance(error, FloatingPointError)  # where the last goes on alone


if __name__ == "__main__":
    main()
