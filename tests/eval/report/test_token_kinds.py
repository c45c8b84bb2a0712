"""Tokens by kind, and their text."""

from eval.report.token_kinds import KINDS, kinds_of, plain, readable


def test_kinds_of_tokens() -> None:
    pieces = ["The", "▁king", "dom", "▁of", "▁Is", "rael", ",", "▁", "12", "<0x0A>", "then", "▁“", "No", "”", "<0xE2>"]
    assert [KINDS[kind] for kind in kinds_of(pieces)] == [
        "begins a word, capital", "begins a word, lower case", "continues a word", "begins a word, lower case",
        "begins a word, capital", "continues a word", "punctuation", "other", "number", "line break",
        "begins a word, lower case", "punctuation", "begins a word, capital", "punctuation", "other",
    ]  # fmt: skip


def test_the_text_of_tokens() -> None:
    pieces = ["▁<b>", "▁&", "<0x0A>", "x", "<0xE2>"]
    assert [readable(piece) for piece in pieces] == [" <b>", " &", "\n", "x", "⟨E2⟩"]
    assert [plain(piece) for piece in pieces[:3]] == ["␣<b>", "␣&", "⏎"]
