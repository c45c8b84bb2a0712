"""What is derived from a run's files."""

import pytest

from pretrain.callbacks.metrics_file import MetricsFile
from pretrain.watch.panels import POINTS, panels, thinned
from pretrain.watch.run_files import RankTime, Snapshot, open_runs
from pretrain.watch.status import duration, events, seconds_left, stragglers, table
from tests.pretrain.watch.conftest import MakeFolder


def ranks(*seconds: float) -> list[RankTime]:
    return [RankTime(rank, f"node{rank}", spent) for rank, spent in enumerate(seconds)]


def test_a_straggler_is_a_rank_far_above_the_median() -> None:
    assert [rank.rank for rank in stragglers(ranks(0.2, 0.21, 0.5, 0.19, 0.9))] == [4, 2]
    assert [rank.rank for rank in stragglers(ranks(0.4, 0.2))] == [0]
    assert stragglers(ranks(0.2, 0.22)) == stragglers(ranks(0.5)) == stragglers([]) == []


def test_the_table_has_every_value_of_every_run(make_folder: MakeFolder) -> None:
    run = open_runs([str(make_folder("run"))])[0].read()
    assert run.written is not None
    rows = table([run, Snapshot("new")], run.written + 61)
    assert {name: cells[0] for name, cells in rows} == {
        "step": "20 of 40 (50%)", "loss": "6.0000", "validation loss": "7.2500", "gradient norm": "1.5",
        "learning rate": "0.001", "tokens": "2,000", "tokens per second": "1,024", "MFU": "25.0%",
        "peak memory": "2.00 GiB", "time left": "5 min", "skipped steps": "1", "spikes": "1", "restarts": "1",
        "processes": "4", "stragglers": "rank 3 (node1)", "written": "1 min ago",
    }  # fmt: skip
    assert {cells[1] for _, cells in rows} == {"not begun", "-", "0"}


def test_a_run_without_a_line_for_long_shows_no_sign_of_life_unless_it_is_done(make_folder: MakeFolder) -> None:
    runs = [files.read() for files in open_runs([str(make_folder("half")), str(make_folder("done", steps=40))])]
    assert runs[0].written is not None
    assert dict(table(runs, runs[0].written + 1201))["written"] == ["no sign of life for 20 min", "20 min ago"]


def test_time_left_follows_from_the_last_speed(make_folder: MakeFolder) -> None:
    run = open_runs([str(make_folder("run"))])[0].read()
    context = run.settings["model"]["context_length"]
    assert seconds_left(run) == pytest.approx(20 * 4 * context / 1024)
    assert seconds_left(Snapshot("new")) is None


def test_time_left_is_the_runs_own_estimate_unless_its_settings_have_changed_since(make_folder: MakeFolder) -> None:
    folder = make_folder("run")
    metrics = MetricsFile(folder, 20)
    metrics.log(21, loss=6.0, eta_s=380.0, tokens_per_s=1024.0)
    metrics.log(30, loss=6.0)
    (files,) = open_runs([str(folder)])
    assert seconds_left(files.read()) == pytest.approx(200)
    metrics.log(30, changed={"global_batch_size": [4, 8]})
    run = files.read()
    assert seconds_left(run) == pytest.approx(10 * 4 * run.settings["model"]["context_length"] / 1024)
    metrics.log(40, loss=6.0, eta_s=0.0)
    assert seconds_left(files.read()) == 0


def test_events_stand_in_the_order_of_their_steps(make_folder: MakeFolder) -> None:
    run = open_runs([str(make_folder("run"))])[0].read()
    lines = events(run, 9)
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 10", "step 11", "step 12", "step 12"]
    assert lines[1].startswith("step 10: restarted ")
    assert lines[2] == "step 11: loss 7.5 standard deviations above the last ones"
    assert lines[3:] == ["step 12: skipped, the loss is nan", "step 12: changed optimizer.lr 0.003 -> 0.001"]
    assert events(run, 2) == lines[3:]


def test_panels_overlay_runs_and_leave_out_what_no_run_has(make_folder: MakeFolder) -> None:
    runs = [files.read() for files in open_runs([str(make_folder("a")), str(make_folder("b", steps=3))])]
    by_title = {panel.title: panel for panel in panels([*runs, Snapshot("new")])}
    loss = by_title["training loss, nats/token"]
    assert [len(line.points) for line in loss.lines] == [20, 3, 0]
    assert loss.spikes == [(11, 6.9)]
    assert by_title["a: own work by rank, s"].lines[0].points[3] == (3, 0.5)
    assert len(by_title["b: mean weight of each scale"].lines) == 2
    assert panels([Snapshot("new")]) == []


def test_long_curves_are_thinned_to_means_and_keep_their_end() -> None:
    curve = [(step, float(step % 2)) for step in range(1, 10_001)]
    drawn = thinned(curve)
    assert len(drawn) <= POINTS + 1
    assert drawn[-1] == curve[-1]
    assert all(abs(value - 0.5) < 0.05 for _, value in drawn[:-2])
    assert [step for step, _ in drawn] == sorted({step for step, _ in drawn})
    assert thinned(curve[:9]) == curve[:9]


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9 s"), (61, "1 min"), (3661, "1:01 h"), (200_000, "2 d 7 h")]
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
