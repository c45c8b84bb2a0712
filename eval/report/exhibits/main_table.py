"""The table of all models, beside the paper's."""

from eval.paper import PAPER
from eval.report import plots
from eval.report.comparison import Comparison
from eval.report.exhibits.source import Source, listed
from eval.report.page import Exhibit, table
from eval.undefined import shown

_RUN = ("Model", "Score entries", "Seeds", "Parameters", "Tokens trained")
_MEASURED = (
    "PPL per word (geometric mean)", "PPL per token (geometric mean)", "Bits per byte (mean)",
    "PPL / Transformer (geometric mean)", "Peak memory",
)  # fmt: skip
_PAPER = ("PPL", "PPL / Transformer", "Memory")
HEADER = (*_RUN, *_MEASURED, *(f"Paper: {name}" for name in _PAPER))
"""The columns of the whole table; the page has them in two of its tables."""
PUBLISHED = (
    "The published columns are the paper's Table I (arXiv 2512.14925), for orientation: PG-19 at 4096 tokens with 12 "
    "layers of width 768, by a model whose predictions depend on later tokens (convolutions, attention and upsampling "
    "are not causal), with a perplexity whose unit is not stated, and memory of an unstated batch. Ours are causal "
    "models, trained on the data that the page names, with perplexity per word. Only ratios between rows of one "
    "column can be compared, and those with care."
)
READING = (
    "PPL per word is exp(total negative log-likelihood / whitespace words of the raw text), the literature's measure "
    "on PG-19; PPL per token depends on the tokenizer. Every token is scored once, in a sliding window. Several seeds "
    "of a configuration are one row: mean ± spread, least to most beneath. Both are taken of losses: of perplexities "
    "and their ratios the mean is geometric (the perplexity of the mean loss) and the spread is relative to it, the "
    "sample standard deviation of the logarithms; of bits per byte both are arithmetic. A dash is an undefined "
    "value, such as perplexity per word of text without spaces. PPL / Transformer pairs "
    "runs of the same seed where both exist. Score entries counts what our implementation computes of N tokens, W "
    "being the span. Peak memory is that of one training process (resident set on a CPU, allocator's peak on a GPU), "
    "the most among seeds. Unigram is what the training split's token frequencies alone would score."
)


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The body of the table as text cells, in the order of HEADER."""
    body: list[tuple[str, ...]] = []
    base = PAPER["standard"].perplexity
    for model in comparison.models:
        run, paper, ratio = model.first, PAPER[model.config.attention], comparison.ratio_to_transformer(model)
        memory = max((one.peak_memory_bytes or 0 for one in model.runs), default=0)
        body.append((
            model.label, model.complexity, listed(model.seeds), f"{run.evaluated().parameters:,}",
            f"{run.info.tokens:,}", model.sample("word_perplexity").text_with_range(2),
            model.sample("token_perplexity").text_with_range(2), model.sample("bits_per_byte").text_with_range(4),
            ratio.text_with_range(3) if ratio else "-", f"{memory / 2**30:.2f} GiB" if memory else "-",
            f"{paper.perplexity}", f"{paper.perplexity / base:.3f}", f"{paper.memory_gb} GB",
        ))  # fmt: skip
    unigram = comparison.unigram
    if unigram:
        units = (unigram.word_perplexity, 2), (unigram.token_perplexity, 2), (unigram.bits_per_byte, 4)
        scores = [shown(value, digits) for value, digits in units]
        body.append(("Unigram", *["-"] * 4, *scores, *["-"] * 5))
    return body


def table_exhibits(source: Source) -> list[Exhibit]:
    """The table in two parts, the paper's own, and a plot of the perplexities; nothing if no document was scored."""
    comparison = source.comparison
    if not comparison.unigram:
        return []
    windows = sorted(
        {(run.evaluated().context, run.evaluated().stride) for model in comparison.models for run in model.runs}
    )
    measured = (
        f"every token of {source.text}; windows of {listed([c for c, _ in windows])} tokens, "
        f"{listed([s for _, s in windows])} apart."
    )
    base = PAPER["standard"].perplexity
    published = [
        (row.model, row.complexity, f"{row.perplexity}", f"{row.perplexity / base:.3f}", f"{row.memory_gb} GB")
        for row in PAPER.values()
    ]
    whole = rows(comparison)
    trained = [row[: len(_RUN)] for row in whole if row[1] != "-"]
    return [
        Exhibit(
            "Perplexity and memory",
            table(
                ("Model", *(name.partition(" (")[0] for name in _MEASURED)),
                [(row[0], *row[len(_RUN) : len(_RUN) + len(_MEASURED)]) for row in whole],
            ),
            "Lower is better. Of several seeds: mean ± spread, least to most beneath; a dash is an undefined value.",
            measured, "table", READING,
        ),
        Exhibit(
            "The models",
            table(_RUN, trained), "Score entries of N tokens, W being the span.", "from each run's checkpoint.", "table"
        ),
        Exhibit(
            "The paper's table, as published",
            table(("Model", "Complexity", "PG-19 PPL", "PPL / Transformer", "Memory"), published),
            "For orientation: another setting, and a model that is not causal. Only ratios between rows of one column "
            "can be compared, and those with care.",
            "nothing here; values copied from arXiv 2512.14925, Table I.", notes=PUBLISHED,
        ),
        *source.plot(
            "table", "Perplexity per word", plots.drawn(plots.perplexities, comparison),
            "One point for each seed, a tick at their geometric mean; lower is better. The axis does not begin at 0.",
            measured,
        ),
    ]  # fmt: skip
