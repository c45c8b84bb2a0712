"""The file of a suite expands to runs; shipped ones are whole; mistakes are named."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline import Manifest, UserError
from eval.tasks.entry import TASKS
from eval.tasks.suite import Suite
from eval.tasks.training import Learner
from maha_model import CausalLM
from tests.conftest import ROOT
from tests.eval.tasks.example import VALUES, load_suite

TASK_NAMES = list(VALUES["tasks"])
DESCENT = {"descent": 1, "query": "fine", "positions": "token"}


@pytest.mark.parametrize("path", sorted((ROOT / "eval/tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_suite_has_models_of_one_size_within_one_percent(
    path: Path, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("code", "code_1k"):
        (tmp_path / "data" / name).symlink_to(data.folder)
    monkeypatch.chdir(tmp_path)
    runs = Suite.load(path).runs(seeds=[0])
    assert len({run.name for run in runs}) == len(runs)
    sizes: dict[str, dict[str, int]] = {}
    for run in runs:
        of_task = sizes.setdefault(run.entry, {})
        if run.model not in of_task:
            with torch.device("meta"):
                of_task[run.model] = CausalLM(run.config).num_parameters()
    assert all(max(found.values()) < 1.01 * min(found.values()) for found in sizes.values()), sizes


@pytest.mark.parametrize("name", ["small", "recall"])
def test_the_shipped_suites_of_recall_have_all_synthetic_tasks(name: str) -> None:
    runs = Suite.load(ROOT / "eval" / "tasks" / f"{name}.yaml").runs(seeds=[0])
    assert {run.task for run in runs} >= TASKS.keys() - {"multiquery", "text"}


def test_a_run_for_each_task_length_model_and_seed(tmp_path: Path) -> None:
    names = [run.name for run in load_suite(tmp_path).runs()]
    pairs = [f"pairs-{n}-{m}-{s}" for n in (16, 32) for m in ("full", "window", "maha") for s in (0, 1)]
    assert names == [*pairs, "passages-16-full-5", "passages-16-maha-5"]
    chosen = load_suite(tmp_path).runs(["pairs"], ["maha"], [7])
    assert [run.name for run in chosen] == ["pairs-16-maha-7", "pairs-32-maha-7"]


def test_the_curriculum_goes_up_to_the_task_itself(tmp_path: Path) -> None:
    short, long = (run.stages for run in load_suite(tmp_path).runs(["pairs"], ["full"], [0]))
    sizes = [[(s.task.length, s.updates, s.batch_size) for s in stages] for stages in (short, long)]
    assert sizes == [[(8, 2, 4), (16, 4, 4)], [(8, 2, 3), (24, 3, 2), (32, 5, 3)]]
    assert [stage.task.pairs for stage in long] == [1, 2, 2]  # type: ignore[attr-defined]


def test_a_model_has_settings_of_its_own_at_a_length_and_room_for_all_tests(tmp_path: Path) -> None:
    short, long = (run for run in load_suite(tmp_path).runs(["pairs"], ["maha"], [0]))
    assert (short.config.num_scales, long.config.num_scales) == (2, 3)
    assert [task.length for task in short.tests] == [16, 32, 64]
    assert [task.length for task in long.tests] == [32, 64]
    assert short.config.context_length == 64


def test_a_model_has_more_updates_in_all_stages(tmp_path: Path) -> None:
    values = changed("models", "full", "more_updates", value=1.5)
    stages, others = (
        load_suite(tmp_path, **values).runs(["pairs"], [model], [0])[0].stages for model in ("full", "maha")
    )
    assert [stage.updates for stage in stages] == [3, 6]
    assert [stage.updates for stage in others] == [2, 4]


def test_a_model_begins_the_curriculum_with_other_scales_and_is_itself_without_one(tmp_path: Path) -> None:
    values = changed("models", "maha", value={"num_scales": 3, "begins": {"num_scales": 2, "rope_base": 100.0}})
    with_curriculum, without = (load_suite(tmp_path, **values).runs([name], ["maha"], [0])[0] for name in TASK_NAMES)
    assert with_curriculum.begins == replace(with_curriculum.config, num_scales=2, rope_base=100.0)
    assert with_curriculum.to_dict()["begins"]["num_scales"] == 2
    assert without.begins is None
    assert "begins" not in without.to_dict()  # results of earlier versions are as good


def test_settings_of_a_length_and_of_all_models_hold_for_the_begin_and_the_dial_too(tmp_path: Path) -> None:
    at = {32: {"num_scales": 3, "begins": {"num_scales": 2}, "dial": [0.5]}}
    values = changed("models", "maha", value={"num_scales": 2, **DESCENT, "at": at})
    short, long = load_suite(tmp_path, **values).runs(["pairs"], ["maha"], [0])
    assert (short.begins, short.dial) == (None, [])
    assert (long.begins, long.dial) == (replace(long.config, num_scales=2), [0.5])

    of_all = changed("base", "begins", value={"rope_base": 100.0})
    for run in load_suite(tmp_path, **of_all).runs(["pairs"]):
        assert run.begins == replace(run.config, rope_base=100.0)
    of_task = changed("tasks", "pairs", "model", value={"begins": {"rope_base": 100.0}})
    (run,) = load_suite(tmp_path, **of_task).runs(["pairs"], ["full"], [0])[:1]
    assert run.begins == replace(run.config, rope_base=100.0)


def test_weights_that_do_not_fit_are_named_at_the_start_and_fit_as_the_message_says(tmp_path: Path) -> None:
    model = {"num_scales": 3, "ratio": 2, "projections": "separate", "begins": {"num_scales": 1}}
    message = "model maha: begins has queries and keys of width 8, the model of 4, .* give the model qk_dim: 4"
    with pytest.raises(UserError, match=message):
        load_suite(tmp_path, **changed("models", "maha", value=model)).runs()
    run = load_suite(tmp_path, **changed("models", "maha", value={**model, "qk_dim": 4})).runs(["pairs"], ["maha"])[0]
    learner = Learner(run.config, run.stages, run.training, run.seed, "cpu", run.begins)
    while not learner.finished:
        learner.advance()
    assert learner.model.config == run.config


def changed(*keys: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("tsks", value={}), "unknown key tsks; did you mean tasks"),
        (changed("base", value=None), "base is missing"),
        (changed("tasks", "pairs", "task", value="recal"), "task pairs: no kind of task is called 'recal'; did you"),
        (changed("tasks", "pairs", "update", value=3), "task pairs: unknown key update; did you mean updates"),
        (changed("tasks", "pairs", "models", value=["ful"]), "no model is called 'ful'; did you mean full"),
        (changed("tasks", "pairs", "settings", "pair", value=3), "unknown key pair; did you mean pairs"),
        (changed("tasks", "pairs", "settings", "pairs", value=9), "task pairs: pairs 9 is more than keys 4"),
        (changed("tasks", "pairs", "curriculum", value=[{"keys": 5, "updates": 1}]), "has another vocabulary"),
        (changed("tasks", "pairs", "curriculum", value=[{"pairs": 1}]), "updates is missing"),
        (changed("tasks", "pairs", "curriculum", value=[3]), "task pairs: curriculum.0 is 3; give a mapping"),
        (changed("tasks", "pairs", value=3), "tasks.pairs is 3; give a mapping"),
        (changed("tasks", "pairs", "curriculum", value=[{"length": "x", "updates": 1}]), "length is 'x'; give a whole"),
        (changed("tasks", "pairs", "name", value="words"), "unknown key name; the task is called pairs"),
        (changed("tasks", "pairs", "at", value={64: {}}), r"at has 64, which is none of its lengths \[16, 32\]"),
        (changed("tasks", "pairs", "at", value={32: {"task": "text"}}), "at 32: unknown key task; known are updates"),
        (changed("tasks", "pairs", "at", value={32: {"updates": "x"}}), "at 32: updates is 'x'; give a whole number"),
        (changed("tasks", "pairs", "models", value=[[1]]), r"models\.0 is \[1\]; give a word"),
        (changed("tasks", "pairs", "lengths", value=[16, 32, 16]), "pairs-16-full-0 is 2 runs; give each task, length"),
        (changed("seeds", value=[1, 1]), "is 2 runs; give each task, length, model and seed once"),
        (changed("seeds", value=["x"]), r"seeds\.0 is 'x'; give a whole number"),
        (changed("seeds", value=[-1]), "a seed is -1; give a number of 0 to"),
        (changed("tasks", "pairs", "seeds", value=[2**63]), "a seed is 9223372036854775808; give a number of 0 to"),
        (changed("tasks", "pairs", "updates", value="many"), "updates is 'many'; give a whole number"),
        (changed("tasks", "pairs", "lengths", value=16), "lengths is 16; give a list"),
        (changed("training", "lr", value="3e-3"), "training: lr is '3e-3'; give a number"),
        (changed("training", "weight_decay", value=-1), "weight_decay is -1; it must be finite and not negative"),
        (changed("training", "grad_clip", value=float("nan")), "grad_clip is nan; it must be positive and finite"),
        (changed("training", "lr", value=float("inf")), "lr is inf; it must be positive and finite"),
        (changed("models", "full", "d_modle", value=3), "task pairs, model full: unknown model setting d_modle"),
        (changed("models", "full", value=None), "models.full is None; give a mapping"),
        (changed("models", "full", "more_updates", value=0), "model full: more_updates is 0; give a positive number"),
        (changed("models", "full", "more_updates", value=10**400), "give a positive number up to 1000"),
        (changed("models", "full", "vocab_size", value=3), "vocab_size follows from the task"),
        (changed("models", "window", "equal_scores", value="window"), "give a model that has none itself"),
        (changed("models", value={"a/b": {}}), "the name 'a/b' is part of a file's"),
        (changed("models", value={3: {}}), "models has the key 3; give a word"),
        (changed("models", "maha", "dial", value=0.1), "model maha: dial is 0.1; give a list of numbers"),
        (changed("models", "maha", "begins", value=3), "model maha: begins is 3; give a mapping"),
        (changed("models", "maha", "begins", value={"d_ff": 8}), "begins has d_ff; only num_scales and rope_base"),
        (changed("models", "maha", "begins", value={"num_scales": 3}), "begins has more scales than the model; give 2"),
        (changed("models", "maha", "begins", value={"rope_base": "abc"}), "begins: rope_base is 'abc'; give a number"),
        (changed("models", "maha", "begins", value={"rope_base": -1}), "rope_base is -1; it must be positive"),
        (changed("models", "maha", "begins", value={"num_scales": None}), "num_scales is None; give a whole number"),
        (changed("models", "full", "begins", value={"num_scales": 2}), "begins has num_scales, but standard attention"),
        (changed("models", "maha", "at", value={32: {"begins": 3}}), "model maha: begins is 3; give a mapping"),
        (changed("models", "maha", "at", value=[32]), r"model maha: at is \[32\]; give a mapping"),
        (changed("models", "maha", "at", value={"32": {}}), "at has '32'; give lengths, whole numbers"),
        (changed("models", "maha", "d_ff", value="wide"), "d_ff is 'wide'; give a whole number"),
        (changed("models", "maha", "recency", value="8"), "recency is '8'; give a number"),
        (
            changed("models", "maha", "aggregation", value={"ridge": "1e0"}),
            "aggregation: ridge is '1e0'; give a",
        ),
        (changed("models", "maha", "aggregation", value=3), "aggregation is 3; give a mapping"),
        (changed("models", "maha", "dial", value=[0.1]), "dial is for a model with a descent"),
        (changed("models", "maha", value={**DESCENT, "dial": [-1]}), "model maha: dial -1: aggregation.sparsity"),
        (changed("base", "equal_scores", value="maha"), "equal_scores is 'maha'; give a model that has none itself"),
        (changed("figures", value=[{"kind": "speed", "model": "full", "limit": 1}]), "figure 1: kind is 'speed'"),
        (changed("figures", value=[{"kind": "updates", "model": "full", "limit": 1}]), "over is missing"),
        (changed("figures", value=[{"kind": "accuracy", "model": "ful", "limit": 1}]), "no model is called 'ful'"),
        (changed("figures", value=[5]), r"figures\.0 is 5; give a mapping"),
    ],
)
def test_mistakes_in_the_file_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_suite(tmp_path, **change).runs()


@pytest.mark.parametrize(
    "values",
    [
        {"length": 7}, {"test_length": 7}, {"model": "window", "task": "passages"}, {"kind": "work"},
        {"kind": "perplexity"}, {"kind": "perplexity", "past": 65},
    ],
)  # fmt: skip
def test_a_limit_that_nothing_can_have_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    """It would be missing from the report, as if it were kept."""
    figure = {"kind": "accuracy", "model": "full", "over": "maha", "limit": 1, **values}
    message = "past is 65; losses are summed by octaves" if "past" in values else "no task and length has what it comp"
    with pytest.raises(UserError, match=f"figure 1: {message}"):
        load_suite(tmp_path, figures=[figure])


def test_unknown_choices_are_named(tmp_path: Path) -> None:
    suite = load_suite(tmp_path)
    with pytest.raises(UserError, match="no task is called 'pair'; did you mean pairs"):
        suite.runs(["pair"])
    with pytest.raises(UserError, match="no model is called 'mah'; did you mean maha"):
        suite.runs([], ["mah"])
    with pytest.raises(UserError, match="none of the models runs on these tasks"):
        suite.runs(["passages"], ["window"])
