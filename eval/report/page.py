"""The report's page: sections of plots and tables in one HTML file without scripts, links out or other files."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exhibit:
    """A plot or a table: its content, what was measured, and the command that makes it again."""

    title: str
    body: str
    """HTML."""
    caption: str
    """How to read it."""
    measured: str
    """On what, with how much of it, by which machine."""
    command: str

    def to_html(self) -> str:
        """A <figure> with caption, measurement and command beneath."""
        return (
            f'<figure><h3>{html.escape(self.title)}</h3><div class="scroll">{self.body}</div>'
            f"<figcaption><p>{html.escape(self.caption)}</p><p><b>Measured:</b> {html.escape(self.measured)}</p>"
            f"<pre><code>{html.escape(self.command)}</code></pre></figcaption></figure>"
        )


@dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    anchor: str
    title: str
    exhibits: list[Exhibit] = field(default_factory=list)
    intro: str = ""
    """HTML."""


def inline_svg(svg: str, description: str) -> str:
    """An inline SVG with a description for screen readers."""
    label = html.escape(description)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def table(head: Sequence[str], body: Sequence[Sequence[str]], above: Sequence[tuple[str, int]] = ()) -> str:
    """A table of text cells; `above` has headings of several columns: (name, columns)."""

    def row(cells: Sequence[str], tag: str) -> str:
        first = f'<th scope="{"col" if tag == "th" else "row"}">{html.escape(cells[0])}</th>'
        return "<tr>" + first + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[1:]) + "</tr>"

    spans = "".join(f'<th colspan="{columns}" scope="colgroup">{html.escape(name)}</th>' for name, columns in above)
    top = f"<tr>{spans}</tr>" if above else ""
    return (
        f"<table><thead>{top}{row(head, 'th')}</thead><tbody>"
        + "".join(row(cells, "td") for cells in body)
        + "</tbody></table>"
    )


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole file; `lead` is HTML above the table of contents."""
    contents = "".join(f'<li><a href="#{part.anchor}">{html.escape(part.title)}</a></li>' for part in sections)
    chapters = "".join(
        f'<section id="{part.anchor}"><h2>{html.escape(part.title)}</h2>{part.intro}'
        + "".join(exhibit.to_html() for exhibit in part.exhibits)
        + "</section>"
        for part in sections
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>{lead}"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>{chapters}</main></body></html>\n'
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --ink: #1c1917; --paper: #fdfcfb; --quiet: #57534e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5e4; --paper: #171513; --quiet: #a8a29e; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; color: var(--ink); background: var(--paper); }
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; text-wrap: balance; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3.5rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; }
p, li { max-width: 46rem; }
nav { background: var(--soft); border-radius: .5rem; padding: .75rem 1rem; margin: 1.5rem 0; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 18rem; }
nav a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: pre; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { vertical-align: bottom; white-space: normal; min-width: 4.5rem; }
thead th[colspan] { text-align: center; }
.words th, .words td { text-align: left; white-space: normal; min-width: 18rem; }
tbody th { font-weight: 600; }
figure { margin: 1.75rem 0 2.75rem; }
figure svg text { font-family: system-ui, sans-serif !important; }
figcaption { font-size: .875rem; color: var(--quiet); }
figcaption p { margin: .5rem 0; max-width: 52rem; }
pre { background: var(--soft); border-radius: .35rem; padding: .5rem .75rem; margin: .5rem 0 0; font-size: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 7.5rem; overflow-y: auto; }
code { font-family: ui-monospace, monospace; }
.warning { border-left: 4px solid #d97706; padding-left: .75rem; font-weight: 600; }
.passage { white-space: pre-wrap; line-height: 1.9; font-family: Georgia, serif; max-width: 46rem; }
.passage span, .legend span { border-radius: .15rem; padding: .1rem 0; }
.legend { font-size: .8rem; }
.legend span { padding: .1rem .5rem; border-radius: 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
""" + "".join(f".c{step} {{ background: rgb(213 94 0 / {step / 14:.2f}); }}\n" for step in range(10))
