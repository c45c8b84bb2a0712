"""What processes of a launch do together when one of them fails."""

import dataclasses
from collections.abc import Callable

import pytest

from data_pipeline import UserError
from eval.ranks import Ranks

Run = Callable[..., object]


@dataclasses.dataclass(frozen=True)
class Launched(Ranks):
    """Of two processes, the other one's values given."""

    other: tuple = ()

    def gather(self, value):  # type: ignore[no-untyped-def]
        values = [self.other[0], self.other[0]]
        values[self.rank] = value
        return values


def fail() -> None:
    raise UserError("no data here; prepare them")


def test_a_mistake_on_one_process_is_raised_on_all() -> None:
    with pytest.raises(UserError, match=r"^rank 1: no data here"):
        Launched(0, 2, other=("no data here; prepare them",)).each(lambda: 3)
    with pytest.raises(UserError, match=r"^rank 1: no data here"):
        Launched(1, 2, other=("",)).each(fail)
    with pytest.raises(UserError, match=r"^no data here"):
        Launched(0, 2, other=("",)).each(fail)
    assert Launched(1, 2, other=("",)).each(lambda: 3) == 3
    with pytest.raises(UserError, match=r"^no data here"):
        Ranks().each(fail)


def test_a_launch_without_a_rendezvous_is_a_mistake(
    run_command: Run, assert_user_error: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert_user_error(
        run_command("-m", "eval.ppl", "--checkpoint", "c", "--data", "d"), "RANK, MASTER_ADDR, MASTER_PORT are not set"
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment, not a whole number of at least 1"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x' in the environment, not a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 (counted from 0) and WORLD_SIZE 2; start all"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}, "MASTER_PORT is 'abc'"),
    ],
)
def test_variables_that_no_launcher_sets_are_one_line(
    variables: dict[str, str], message: str, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    assert_user_error(run_command("-m", "eval.ppl", "--checkpoint", "c", "--data", "d", **variables), message)
