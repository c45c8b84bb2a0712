"""A comparison as Markdown and as a page. Importing it loads the plotting library, which `eval.report` does not."""

import html

from eval.report import exhibits
from eval.report.comparison import Comparison
from eval.report.page import Section, page


class Report:
    """The exhibits of one comparison; `command` makes them all, `part_commands` the parts alone."""

    def __init__(self, comparison: Comparison, command: str, part_commands: dict[str, str]) -> None:
        self.comparison, self.command, self.part_commands = comparison, command, part_commands
        self.source = exhibits.Source(comparison)
        manifest, scope = comparison.scope.manifest, comparison.scope
        self.title = f"MAHA beside its baselines on {manifest.request['source']}, {scope.split} split"
        split = manifest.split(scope.split)
        self.data = (
            f"{scope.split} split ({split.documents} documents, {split.tokens:,} tokens, {split.words:,} words) "
            f"of {manifest.request['source']}, data fingerprint {manifest.fingerprint[:12]}"
        )

    def to_markdown(self) -> str:
        """The table with its notes and the command."""
        parts = [f"# {self.title}"]
        parts += [f"**Warning**: {warning}." for warning in self.comparison.warnings]
        if self.comparison.unigram:
            header = exhibits.HEADER
            cells = (header, ["---"] * len(header), *exhibits.rows(self.comparison))
            lines = ["| " + " | ".join(row) + " |" for row in cells]
            parts += ["\n".join(line.replace("\n", "<br>") for line in lines), exhibits.READING, exhibits.PUBLISHED]
        parts += [f"Data: {self.data}. Machine: {self.source.machine}.", f"```\n{self.command}\n```"]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """The page."""
        warnings = "".join(f'<p class="warning">Warning: {html.escape(text)}.</p>' for text in self.comparison.warnings)
        lead = (
            f"{warnings}<p>Data: {html.escape(self.data)}.</p><p>Machine: {html.escape(self.source.machine)}. "
            'Everything was measured by <a href="#commands">one command</a>, which trains nothing.</p>'
        )
        sections = [
            Section("table", "The table", exhibits.table_exhibits(self.source)),
            Section("training", "Training", exhibits.training_exhibits(self.source)),
            Section(
                "context", "What context brings",
                [*exhibits.context_exhibits(self.source), *exhibits.bigram_exhibits(self.source)],
            ),
            Section("scales", "Which scales are used", exhibits.scales_exhibits(self.source)),
            Section("attention", "Attention by distance", exhibits.attention_exhibits(self.source)),
            Section("cost", "Cost", exhibits.cost_exhibits(self.source)),
            Section("documents", "By document", exhibits.documents_exhibits(self.source)),
        ]  # fmt: skip
        shown = [section for section in sections if section.exhibits]
        return page(self.title, lead, [*shown, Section("commands", "Commands", intro=self._commands(shown))])

    def _commands(self, sections: list[Section]) -> str:
        """One block: the command of the page, and those that make a part of it alone."""
        lines = ["# this page", self.command]
        for part, command in self.part_commands.items():
            titles = [it.title for section in sections for it in section.exhibits if it.part == part]
            lines += ["", f"# {'; '.join(titles)}", command] if titles else []
        if self.comparison.memory:
            lines += ["", "# what --memory reads", "python eval/memory.py --json"]
        return f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>"
