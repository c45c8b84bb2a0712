"""A count that would leave nothing to do is a mistake in the options of every command."""

import importlib
import sys

import pytest

COUNTS = {
    "data_pipeline.prepare": {"--vocab-size": 1, "--workers": 1, "--shard-tokens": 1},
    "pretrain.plan": {"--world-size": 1},
    "eval.ppl": {"--context": 1, "--stride": 1, "--batch-size": 1},
    "eval.compare": {"--stride": 1, "--batch-size": 1, "--samples": 1, "--windows": 1, "--cost-up-to": 512},
    "eval.memory": {"--vocab-size": 1, "--batch": 1, "--world-size": 1, "--measured-layers": 0},
    "eval.generate": {"--max-tokens": 0, "--top-k": 1},
    "eval.study": {"--jobs": 1},
}
"""The least value of each option that counts something, by command."""


@pytest.mark.parametrize(
    ("command", "option", "least"),
    [(command, option, least) for command, options in COUNTS.items() for option, least in options.items()],
)
def test_a_count_that_is_too_small_is_one_line_and_status_2(
    command: str, option: str, least: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (least - 1, -5):
        monkeypatch.setattr(sys, "argv", [command, f"{option}={value}"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(command).main()
        assert ended.value.code == 2
        message = f"error: {option}: '{value}' is not a whole number of at least {least}; see --help\n"
        assert capsys.readouterr().err == message
