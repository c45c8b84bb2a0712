"""A mistake in a command's options is one line, and counts have a least value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import CommandParser, UserError, at_least, number_in_environment


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


def test_the_first_variable_that_is_set_is_a_number_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "SECOND"):
        monkeypatch.delenv(name, raising=False)
    assert number_in_environment("FIRST", "SECOND", default=7) == 7
    monkeypatch.setenv("SECOND", "5")
    assert number_in_environment("FIRST", "SECOND", default=7) == 5
    for text in ("abc", "", "1.5", "-1", "6"):
        monkeypatch.setenv("FIRST", text)
        with pytest.raises(UserError, match=f"^FIRST is {text!r} in the environment, not a whole number from 0 to 5;"):
            number_in_environment("FIRST", "SECOND", default=7, most=5)
