"""Whether the learning rate that suits a narrow model suits a wide one (muP): python -m eval.bench width_transfer

Small models of several widths learn a synthetic language with each of several rates. The best rate of a width is the
lowest point of a parabola through the losses around the least one, over the logarithm of the rate.

With `base_width` the best rates of all widths must be within a factor of 1.5.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch

from data_pipeline import CommandParser, UserError, at_least, user_errors
from eval.bench.criteria import Criterion, print_report
from maha_model import CausalLM, ModelConfig
from pretrain.session import build_optimizer, parse_config, set_rate

WITHIN = 1.5
"""Largest ratio of the best rates of two widths."""
VOCABULARY, LENGTH, HEAD_DIM, BATCH = 64, 64, 16, 16
MODELS: dict[str, dict[str, Any]] = {
    "maha": {"span": 16, "query": "fine", "positions": "token", "descent": 2},
    "standard": {"attention": "standard"},
}


class Language:
    """Sequences in which the logits of a token are the sum of a row of each of two tables, of the two tokens before."""

    def __init__(self, seed: int) -> None:
        tables = torch.Generator().manual_seed(0)
        self._tables = 2 * torch.randn(2, VOCABULARY, VOCABULARY, generator=tables)
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and the tokens that follow, each (size, LENGTH) int64."""
        rows = [torch.randint(VOCABULARY, (size,), generator=self._generator) for _ in range(2)]
        for _ in range(LENGTH - 1):
            logits = self._tables[0, rows[-1]] + self._tables[1, rows[-2]]
            rows.append(torch.multinomial(logits.softmax(-1), 1, generator=self._generator)[:, 0])
        ids = torch.stack(rows, 1)
        return ids[:, :-1], ids[:, 1:]


def trained_loss(config: ModelConfig, optimizer: str, rate: float, steps: int, seed: int) -> float:
    """The loss of a model after training on fresh sequences, in nats a token; infinite where it has diverged.

    The rate rises over a tenth of the steps and falls on a line to 0.
    """
    torch.manual_seed(seed)
    model, language = CausalLM(config), Language(seed)
    settings = parse_config([f"--optimizer.name={optimizer}", f"--optimizer.lr={rate}"]).optimizer
    updates = build_optimizer(model, settings, clips=True, width_ratio=config.width_ratio)
    for step in range(steps):
        set_rate(updates.param_groups, rate * min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps)))
        loss = model(*language.batch(BATCH)).loss
        loss.backward()
        updates.step()
        updates.zero_grad()
    with torch.no_grad():
        loss = model(*Language(seed + 10**6).batch(8 * BATCH)).loss
    return loss.item() if math.isfinite(loss.item()) else math.inf


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Where a parabola over log(rate) through the least loss and its neighbours is lowest.

    None where the least loss is at an end of the rates: the best is beyond them.

    Args:
        rates: in geometric progression.
        losses: of each rate.
    """
    least = min(range(len(losses)), key=losses.__getitem__)
    if least in (0, len(losses) - 1):
        return None
    before, at, after = losses[least - 1 : least + 2]
    if math.isinf(after):
        return rates[least]
    shift = (before - after) / (2 * (before - 2 * at + after))
    return rates[least] * (rates[1] / rates[0]) ** shift


def sweep(
    name: str, width: int, base_width: int | None, rates: Sequence[float], options: argparse.Namespace
) -> list[float]:
    """The mean loss of a model at every rate, over the seeds."""
    config = ModelConfig(
        vocab_size=VOCABULARY, context_length=LENGTH, d_model=width, num_layers=2, num_heads=width // HEAD_DIM,
        d_ff=2 * width, init_std=options.init_std, base_width=base_width, **MODELS[name],
    )  # fmt: skip
    return [
        sum(trained_loss(config, options.optimizer, rate, options.steps, seed) for seed in range(options.seeds))
        / options.seeds
        for rate in rates
    ]


def compare(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Criterion]]:
    """A row for every model, width and form, and the criteria."""
    rates = [options.first_rate * 2.0**number for number in range(options.rates)]
    rows, criteria = [], []
    for name in options.models:
        for base in [options.widths[0], None] if options.without else [options.widths[0]]:
            found = []
            for width in options.widths:
                losses = sweep(name, width, base, rates, options)
                found.append(best_rate(rates, losses))
                rows.append({
                    "model": name, "width": width, "base_width": base, "best_rate": found[-1],
                    "losses": dict(zip(rates, losses, strict=True)),
                })  # fmt: skip
            known = [rate for rate in found if rate is not None]
            spread = max(known) / min(known) if len(known) == len(found) else None
            if base is not None:
                criteria.append(Criterion(f"{name}: best rates of all widths, the largest over the least",
                                          spread, WITHIN))  # fmt: skip
    return rows, criteria


def describe(rows: list[dict[str, Any]]) -> list[str]:
    """The table as lines for a reader."""
    rates = list(rows[0]["losses"])
    lines = [f"{'model':<10}{'base':>6}{'width':>7}{'best rate':>12}" + "".join(f"{rate:>10.2g}" for rate in rates)]
    for row in rows:
        best = "beyond" if row["best_rate"] is None else f"{row['best_rate']:.2g}"
        losses = "".join(f"{loss:>10.4f}" for loss in row["losses"].values())
        lines.append(f"{row['model']:<10}{row['base_width'] or '-':>6}{row['width']:>7}{best:>12}{losses}")
    return lines


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=at_least(1), nargs="+", default=[64, 256], help="the first is base_width")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--first-rate", type=float, default=0.002, help="the lowest (default 0.002)")
    parser.add_argument("--rates", type=at_least(3), default=6, help="how many, each twice the one before (default 6)")
    parser.add_argument("--steps", type=at_least(10), default=80, help="of each run (default 80)")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="runs of each rate (default 1)")
    parser.add_argument("--init-std", type=float, default=0.06, help="of the base width (default 0.06)")
    parser.add_argument("--without", action="store_true", help="also without width transfer, for comparison")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(args)
    with user_errors():
        if any(width % (2 * HEAD_DIM) for width in options.widths):
            raise UserError(f"--widths {options.widths} are not all multiples of {2 * HEAD_DIM}; change them")
        rows, criteria = compare(options)
    print_report(describe(rows), criteria, {"rows": rows}, options.json)


if __name__ == "__main__":
    main()
