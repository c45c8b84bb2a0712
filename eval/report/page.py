"""The report's page: sections of plots and tables in one HTML file without scripts, links out or other files."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exhibit:
    """A plot or a table: its content, how to read it, and what was measured."""

    title: str
    body: str
    """HTML."""
    caption: str
    """How to read it, in a few words."""
    measured: str
    """On what, with how much of it."""
    part: str = ""
    """Of the comparison, by whose command it is made alone; none of what is not measured by one."""
    notes: str = ""
    """More on how to read it, folded away."""

    def to_html(self) -> str:
        """A <figure> with the caption, and the measurement and notes folded beneath."""
        folded = "".join(f"<p>{html.escape(text)}</p>" for text in (self.notes, f"Measured: {self.measured}") if text)
        part = f' data-part="{self.part}"' if self.part else ""
        return (
            f'<figure{part}><h3>{html.escape(self.title)}</h3><div class="scroll">{self.body}</div>'
            f"<figcaption><p>{html.escape(self.caption)}</p><details><summary>How it was measured</summary>{folded}"
            "</details></figcaption></figure>"
        )


@dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    anchor: str
    title: str
    exhibits: list[Exhibit] = field(default_factory=list)
    intro: str = ""
    """HTML."""


def described(svg: str, description: str) -> str:
    """HTML with inline SVG, each picture with a description for screen readers."""
    label = html.escape(description)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ')


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of text cells. One of many columns has each row as a list where the page is narrow."""

    def row(cells: Sequence[str], tag: str) -> str:
        first = f'<th scope="{"col" if tag == "th" else "row"}">{html.escape(cells[0])}</th>'
        names = ["" if tag == "th" else f' data-name="{html.escape(name)}"' for name in head]
        others = zip(names[1:], cells[1:], strict=True)
        return "<tr>" + first + "".join(f"<{tag}{name}>{html.escape(cell)}</{tag}>" for name, cell in others) + "</tr>"

    kind = ' class="many"' if len(head) > _FEW_COLUMNS else ""
    return (
        f"<table{kind}><thead>{row(head, 'th')}</thead><tbody>"
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


_FEW_COLUMNS = 4
"""That a phone has room for."""
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
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: pre-line; }
th:first-child { text-align: left; }
thead th { vertical-align: bottom; font-weight: 600; }
.words th, .words td { text-align: left; }
tbody th { font-weight: 600; }
figure { margin: 1.75rem 0 2.5rem; }
.panels { display: flex; flex-wrap: wrap; gap: .75rem 1.25rem; }
.panels svg { max-width: 100%; height: auto; }
figure svg text { font-family: system-ui, sans-serif !important; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; margin: .6rem 0 0; padding: 0;
  font-size: .875rem; }
.key b { letter-spacing: -.1em; margin-right: .3rem; }
figcaption { font-size: .875rem; color: var(--quiet); }
figcaption p { margin: .5rem 0; max-width: 52rem; }
figcaption summary { font-weight: 400; text-decoration: underline dotted; text-underline-offset: .2em; }
pre { background: var(--soft); border-radius: .35rem; padding: .5rem .75rem; margin: .5rem 0 0; font-size: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; }
.warning { border-left: 4px solid #d97706; padding-left: .75rem; font-weight: 600; }
.passage { white-space: pre-wrap; line-height: 1.9; font-family: Georgia, serif; max-width: 46rem; }
.passage span, .legend span { border-radius: .15rem; padding: .1rem 0; }
.legend { font-size: .8rem; }
.legend span { padding: .1rem .5rem; border-radius: 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 40rem) {
  main { padding: 1.25rem 1rem 3rem; }
  h1 { font-size: 1.35rem; }
  th, td { padding: .3rem .45rem; }
  .panels svg.wide { max-width: none; width: 36rem; flex: none; }
  .many, .many tbody, .many tr, .many th, .many td { display: block; }
  .many thead { display: none; }
  .many tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .many th, .many td { border: 0; padding: .1rem 0; }
  .many td { display: flex; justify-content: space-between; gap: 1rem; }
  .many td::before { content: attr(data-name); color: var(--quiet); text-align: left; white-space: nowrap; }
}
""" + "".join(f".c{step} {{ background: rgb(213 94 0 / {step / 14:.2f}); }}\n" for step in range(10))
