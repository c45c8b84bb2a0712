"""A comparison as Markdown and as a page: which exhibits there are, and what each of them measures."""

import html
from typing import Any

from eval.report import plots
from eval.report.comparison import ATTENTION_MEASURED, ATTENTION_SHOWN, PAPER, Comparison, complexity
from eval.report.drawing import drawn
from eval.report.environment import describe
from eval.report.page import Exhibit, Section, page, picture, table
from eval.report.passage import passage_html, plain
from eval.report.runs import Group

HEADER = (
    "Model", "Score entries", "Seeds", "Parameters", "Tokens trained", "PPL per word", "PPL per token", "Bits per byte",
    "PPL / Transformer", "Peak memory", "PPL", "PPL / Transformer", "Memory",
)  # fmt: skip
_ABOVE = (("", 5), ("Measured", 5), ("Published, another setting", 3))
PUBLISHED = (
    "The published columns are the paper's Table I (arXiv 2512.14925), for orientation: PG-19 at 4096 tokens with 12 "
    "layers of width 768, by a model whose positions see the future (convolutions, attention and upsampling are not "
    "causal), with a perplexity whose unit is not stated, and memory of an unstated batch. Ours are causal models, "
    "trained on the data that the page names, with perplexity per word. Only ratios between rows of one column can be "
    "held against each other, and those with care."
)
READING = (
    "PPL per word is exp(total negative log-likelihood / whitespace words of the raw text), the literature's measure "
    "on PG-19; PPL per token depends on the tokenizer. Every token is scored once, in a sliding window. Several seeds "
    "of a configuration are one row: mean ± sample standard deviation, least to most beneath. PPL / Transformer pairs "
    "runs of the same seed where both exist. Score entries counts what our implementation computes of N tokens, W "
    "being the span. Peak memory is that of one training process (resident set on a CPU, allocator's peak on a GPU), "
    "the most among seeds. Unigram is what the training split's token frequencies alone would score."
)
LEAN = "the weights on the scales coarser than the first as a share of all weights, over layers and heads"


class Report:
    """The exhibits of one comparison; `command` makes them all, `part_commands` the parts alone."""

    def __init__(self, comparison: Comparison, command: str, part_commands: dict[str, str]) -> None:
        self.comparison = comparison
        self.command, self.part_commands = command, part_commands
        manifest, scope = comparison.scope.manifest, comparison.scope
        self.title = f"MAHA beside its baselines on {manifest.request['source']}, {scope.split} split"
        self.machine = describe(comparison.machine)
        split = manifest.split(scope.split)
        self.text = f"the {scope.split} split, data {manifest.fingerprint[:12]}"
        self.data = (
            f"{scope.split} split ({len(split.documents)} documents, {split.tokens:,} tokens, {split.words:,} words) "
            f"of {manifest.request['source']}, data fingerprint {manifest.fingerprint[:12]}"
        )

    def to_markdown(self) -> str:
        """The table with its notes and the command."""
        parts = [f"# {self.title}"]
        parts += [f"**Warning**: {warning}." for warning in self.comparison.warnings]
        if self.comparison.unigram:
            named = [name if index < 10 else f"Paper: {name}" for index, name in enumerate(HEADER)]
            lines = ["| " + " | ".join(cells) + " |" for cells in (named, ["---"] * len(HEADER), *self._rows())]
            parts += ["\n".join(line.replace("\n", "<br>") for line in lines), READING, PUBLISHED]
        return "\n\n".join([*parts, f"Data: {self.data}. Machine: {self.machine}.", f"```\n{self.command}\n```"]) + "\n"

    def to_html(self) -> str:
        """The page."""
        warnings = "".join(f'<p class="warning">Warning: {html.escape(text)}.</p>' for text in self.comparison.warnings)
        lead = (
            f"{warnings}<p>Everything on this page was measured by one command, which trains nothing:</p>"
            f"<pre><code>{html.escape(self.command)}</code></pre>"
            f"<p>Data: {html.escape(self.data)}. Machine: {html.escape(self.machine)}.</p>"
        )
        sections = [
            Section("table", "The table", self._table()),
            Section("training", "Training", self._training()),
            Section("context", "What context brings", self._context()),
            Section("scales", "Which scales are used", self._scales()),
            Section("attention", "Where attention looks", self._attention()),
            Section("cost", "Cost", self._cost()),
            Section("documents", "By document", self._documents()),
        ]
        return page(self.title, lead, [section for section in sections if section.exhibits])

    def _figure(self, part: str, title: str, svg: str | None, caption: str, measured: str) -> list[Exhibit]:
        """The exhibit of a picture, if it was drawn."""
        body = picture(svg, f"{title}. {caption}") if svg else ""
        return [Exhibit(title, body, caption, measured, self.part_commands[part])] if svg else []

    def _seeds(self, groups: list[Group]) -> str:
        """Which seeds stand behind the curves."""
        return "; ".join(
            f"{group.label}: seed{'s' * (len(group.seeds) > 1)} {_listed(group.seeds)}" for group in groups
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """The body of the table as text cells, in the order of HEADER."""
        body: list[tuple[str, ...]] = []
        base = PAPER["standard"].perplexity
        for group in self.comparison.groups:
            run, paper, ratio = group.first, PAPER[group.config.attention], self.comparison.ratio_to_transformer(group)
            memory = max((one.peak_memory_bytes or 0 for one in group.runs), default=0)
            body.append((
                group.label, complexity(group), _listed(group.seeds), f"{run.evaluated().parameters:,}",
                f"{run.info.tokens:,}", group.spread("word_perplexity").text(2),
                group.spread("token_perplexity").text(2), group.spread("bits_per_byte").text(4),
                ratio.text(3) if ratio else "-", f"{memory / 2**30:.2f} GiB" if memory else "-",
                f"{paper.perplexity}", f"{paper.perplexity / base:.3f}", f"{paper.memory_gb} GB",
            ))  # fmt: skip
        unigram = self.comparison.unigram
        if unigram:
            scores = f"{unigram.word_perplexity:.2f}", f"{unigram.token_perplexity:.2f}", f"{unigram.bits_per_byte:.4f}"
            body.append(("Unigram", *["-"] * 4, *scores, *["-"] * 5))
        return body

    def _table(self) -> list[Exhibit]:
        comparison = self.comparison
        if not comparison.unigram:
            return []
        windows = sorted(
            {(run.evaluated().context, run.evaluated().stride) for g in comparison.groups for run in g.runs}
        )
        measured = (
            f"every token of {self.text}; windows of {_listed([c for c, _ in windows])} tokens, "
            f"{_listed([s for _, s in windows])} apart; {self.machine}."
        )
        published = [(row.model, row.complexity, f"{row.perplexity}", f"{row.memory_gb} GB") for row in PAPER.values()]
        return [
            Exhibit(
                "Perplexity and memory, beside the published figures", table(HEADER, self._rows(), _ABOVE), READING,
                measured, self.part_commands["table"],
            ),
            Exhibit(
                "The paper's table, as published",
                table(("Model", "Complexity", "PG-19 PPL", "Memory"), published), PUBLISHED,
                "nothing here; figures copied from the paper.", "arXiv 2512.14925, Table I",
            ),
            *self._figure(
                "table", "Perplexity per word", drawn(plots.perplexities, comparison),
                "One point for each seed, a tick at their mean; lower is better. The axis does not begin at 0.",
                measured,
            ),
        ]  # fmt: skip

    def _training(self) -> list[Exhibit]:
        comparison = self.comparison
        if "losses" not in comparison.scope.parts:
            return []
        kept = f"by the training runs themselves, from each run's metrics.jsonl; {self._seeds(comparison.groups)}."
        return [
            *self._figure(
                "losses", "Loss by step", drawn(plots.losses, comparison),
                "Mean over the seeds, with the range as a band. The training loss is a moving average over a fortieth "
                "of the run.", kept,
            ),
            *self._figure(
                "losses", "Scale weights during training", drawn(plots.scales_in_training, comparison),
                "Mean weight of every scale on the first validation windows, mean over the layers; the band is the "
                "range over layers. Scale 0 is the full resolution.",
                "by the training runs themselves; first seed of each model.",
            ),
        ]  # fmt: skip

    def _context(self) -> list[Exhibit]:
        comparison, scope = self.comparison, self.comparison.scope
        exhibits = []
        points = [probe.context[0] for probe in comparison.probes.values() if probe.context]
        if points:
            exhibits += self._figure(
                "context", "Perplexity against context length", drawn(plots.contexts, comparison),
                "The same targets scored at the end of windows of every length, so that only the context differs; "
                "right, the change against each model's own shortest window, with one standard error over the places.",
                f"{points[0].targets:,} targets at up to {scope.samples} places spread evenly over {self.text}, at "
                f"each of them half the shortest window's; first seed of each model; {self.machine}.",
            )  # fmt: skip
        if comparison.unigram:
            exhibits += self._figure(
                "table", "Perplexity by position in the book", drawn(plots.book_positions, comparison),
                "Each point covers positions up to twice as far as the one before, over all documents; right, over the "
                "Transformer. What is far into a book is only seen through the sliding window, and few books are long, "
                "so that the left curve shows the text as much as the model.",
                f"every token of {self.text}; {self._seeds(comparison.groups)}; bands are the range over seeds.",
            )  # fmt: skip
        windows = [probe.window for probe in comparison.probes.values() if probe.window]
        if windows:
            exhibits += self._figure(
                "context", "Perplexity by position in the window", drawn(plots.window_positions, comparison),
                "How much later tokens gain from what stands before them in the window; right, over the Transformer.",
                f"{sum(windows[0].tokens):,} targets in windows that do not overlap, spread evenly over "
                f"{self.text}; first seed of each model; {self.machine}.",
            )  # fmt: skip
        return exhibits

    def _scales(self) -> list[Exhibit]:
        comparison = self.comparison
        uses = {label: probe.scales for label, probe in comparison.probes.items() if probe.scales}
        if not uses:
            return []
        first = next(iter(uses.values()))
        measured = (
            f"{first.tokens:,} tokens in whole windows spread evenly over {self.text}; newest checkpoint of each "
            f"model's first seed; {self.machine}."
        )
        extremes = [
            (
                label,
                *[
                    ", ".join(f"{plain(one.name)} {100 * one.lean:.0f}%" for one in side)
                    for side in (use.most, use.least)
                ],
            )
            for label, use in uses.items()
        ]
        passages = [
            f"<details{' open' if number == 0 else ''}><summary>{html.escape(label)}</summary>"
            f"{passage_html(use.passage)}</details>"
            for number, (label, use) in enumerate(uses.items())
        ]
        command = self.part_commands["scales"]
        return [
            *self._figure(
                "scales", "Scale weights by layer", drawn(plots.scales_by_layer, comparison),
                "Mean weight of every scale over positions and heads, from the first layer to the last. Scale 0 is the "
                "full resolution; a scale that has no token yet counts as 0, and with the budget the weights may sum "
                "to less than 1.", measured,
            ),
            *self._figure(
                "scales", "Mean scale by layer and head", drawn(plots.scales_by_head, comparison),
                "The mean number of the scale, weighted by the weights: 0 if a head uses nothing but the full "
                "resolution; each unit more multiplies the span by the ratio.", measured,
            ),
            *self._figure(
                "scales", "Which tokens lean on coarse scales", drawn(plots.leans, comparison),
                f"The lean of a token is {LEAN}, at the position where it is the newest token read.", measured,
            ),
            Exhibit(
                "Tokens that lean most and least on coarse scales",
                '<div class="words">' + table(("Model", "Most", "Least"), extremes) + "</div>",
                f"Among the tokens that occur at least 20 times. The lean of a token is {LEAN}. ␣ is a space before a "
                "word, ⏎ a line break.", measured, command,
            ),
            Exhibit(
                "A passage, token by token", "".join(passages),
                f"The stronger the colour behind a token, the more it leans on coarse scales: {LEAN}. The colours "
                "span what nine tenths of the tokens lie in.",
                f"the end of a whole window in the middle of {self.text}.", command,
            ),
        ]  # fmt: skip

    def _attention(self) -> list[Exhibit]:
        comparison = self.comparison
        shown = [label for label, probe in comparison.probes.items() if probe.attention]
        if not shown:
            return []
        # one picture of each architecture: strategies differ in how scales are mixed, not in what a scale can see
        by_architecture = {
            group.config.attention: group.label for group in reversed(comparison.headlines) if group.label in shown
        }
        exhibits: list[Exhibit] = []
        for label in [label for label in shown if label in by_architecture.values()]:
            exhibits += self._figure(
                "attention", f"Attention patterns, {label}", drawn(plots.attention_maps, comparison, label),
                "How much each query (downwards) looks at each key (to the right), mean over the heads, as a multiple "
                "of what it would be if the query looked at all it sees alike: no colour is 0, full colour 2 or more. "
                "A coarse scale's queries and keys are its own tokens, drawn as large as what they stand for.",
                f"the last {ATTENTION_SHOWN} tokens or fewer of a window in the middle of {self.text}; first seed.",
            )  # fmt: skip
        return exhibits + self._figure(
            "attention", "Mean attention distance by scale", drawn(plots.attention_distances, comparison),
            "How far back, in tokens, a scale looks on average; one pale point for each layer, lines through the mean. "
            "The baselines have one scale.",
            f"a window of {ATTENTION_MEASURED} tokens or fewer in the middle of {self.text}; first seed.",
        )  # fmt: skip

    def _cost(self) -> list[Exhibit]:
        comparison, exhibits = self.comparison, []
        if comparison.costs:
            exhibits = self._figure(
                "cost", "Cost against N", drawn(plots.costs, comparison),
                "Left, the shortest time of one block over one sequence of N random inputs in float32; the models take "
                "turns in one process. Right, floating-point operations of matrix products per token in training the "
                "whole model, counted: full attention counts its whole square of scores, spans the pairs that see each "
                "other.", f"batches of one sequence, widths and heads of the models above; {self.machine}.",
            )  # fmt: skip
        for name, rows in (comparison.memory or {}).items():
            exhibits.append(
                Exhibit(
                    f"Memory: {name.replace('_', ' ')}", _records(rows), "As eval/memory.py explains it.",
                    "by eval/memory.py, on the machine and with the options it was started with.",
                    "python eval/memory.py --json",
                )
            )  # fmt: skip
        return exhibits

    def _documents(self) -> list[Exhibit]:
        groups = self.comparison.groups
        if not self.comparison.unigram:
            return []
        body = []
        for number, (title, score) in enumerate(groups[0].first.evaluated().documents):
            cells = [
                sum(run.evaluated().documents[number][1].word_perplexity for run in group.runs) / len(group.runs)
                for group in groups
            ]
            body.append([title, f"{score.words:,}", *[f"{value:.2f}" for value in cells]])
        return [
            Exhibit(
                "Perplexity per word of each document",
                table(["Document", "Words", *[group.label for group in groups]], body),
                "Mean over the seeds.", f"every token of {self.text}.", self.part_commands["table"],
            )
        ]  # fmt: skip


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))


def _records(rows: list[dict[str, Any]]) -> str:
    """A table of whatever figures the records have; those of 1 MiB and more that are no counts are bytes."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list))
    return table([key.replace("_", " ") for key in keys], [[_cell(key, row.get(key)) for key in keys] for row in rows])


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 2**20 and key not in ("parameters", "tokens"):
        return f"{value / 2**30:.3f} GiB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
