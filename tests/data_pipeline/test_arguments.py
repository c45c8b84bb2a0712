"""A mistake in a command's options is one line, and counts have a least value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import CommandParser, at_least


def parser() -> CommandParser:
    made = CommandParser(prog="count")
    made.add_argument("--jobs", type=at_least(1))
    return made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs: '0' is not a whole number of at least 1"),
        (["--jobs=-2"], "--jobs: '-2' is not a whole number of at least 1"),
        (["--jobs", "2.5"], "--jobs: '2.5' is not a whole number of at least 1"),
        (["--jobs", "many"], "--jobs: 'many' is not a whole number of at least 1"),
        (["--jobs"], "--jobs: expected one argument"),
        (["--job", "1", "more\nthan"], "unrecognized arguments: more than"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_and_status_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(options)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}; see --help\n"
    assert not captured.out


@given(st.integers(-100, 100), st.integers(0, 10**12))
def test_counts_from_the_least_value_up_are_taken(least: int, more: int) -> None:
    assert at_least(least)(str(least + more)) == least + more
