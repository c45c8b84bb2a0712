"""A passage as HTML."""

from eval.report.passage import passage_html
from eval.report.scale_use import Passage


def test_a_passage_is_the_text_itself_escaped() -> None:
    pieces = ["▁<b>", "▁&", "<0x0A>", "x", "<0xE2>"]
    text = passage_html(Passage(pieces, [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert "<b>" not in text
    assert '<span class="c0" title="10%"> &lt;b&gt;</span>' in text
    assert '<span class="c9" title="50%">⟨E2⟩</span>' in text
    assert "▁" not in text
    assert passage_html(Passage(["a"], [0.5])).count("<p") == 2
