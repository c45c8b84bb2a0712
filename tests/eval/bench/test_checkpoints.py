"""The limits of saves."""

from eval.bench.checkpoints import criteria_of

RANK = {"share": 100.0, "grown": 110.0, "step": 2.0, "waiting": 0.2, "cost": 3.0}


def test_the_worst_rank_counts() -> None:
    passing = criteria_of(2, 1, [RANK, RANK])
    assert [criterion.passed for criterion in passing] == [True] * 4
    for worse, number in (({"grown": 125.0}, 0), ({"share": 120.0}, 1), ({"cost": 4.1}, 2), ({"waiting": 4.1}, 3)):
        found = criteria_of(2, 1, [RANK, {**RANK, **worse}])
        assert [criterion.passed for criterion in found] == [index != number for index in range(4)]


def test_each_limit_names_its_run() -> None:
    names = [criterion.name for criterion in criteria_of(4, 3, [RANK])]
    assert len(set(names)) == 4
    assert all(name.endswith("4 ranks, ZeRO 3") for name in names)
