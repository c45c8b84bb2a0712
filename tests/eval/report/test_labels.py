"""No two models share a label, and labels name what differs."""

from eval.report.model_runs import group_runs
from eval.report.runs import Run
from tests.eval.report.runs import make_run_in_memory as run


def labels(*runs: Run) -> list[str]:
    return [model.label for model in group_runs(runs)]


def test_labels_name_what_differs() -> None:
    assert labels(run(aggregation={"strategy": "nash"}), run(), run(aggregation={"domain": "budget"})) == [
        "MAHA (nash)", "MAHA (convex)", "MAHA (convex, budget)"
    ]  # fmt: skip
    variants = run(), run(num_scales=2, d_ff=1900), run(num_scales=2, d_ff=1900, gating=True), run(span="full")
    assert labels(*variants) == [
        "MAHA (convex), num_scales 3", "MAHA (convex)", "MAHA (convex), gating True", "MAHA (convex, full span)"
    ]  # fmt: skip
    assert labels(run(), run(d_ff=1900)) == ["MAHA (convex)", "MAHA (convex), d_ff 1900"]
    assert labels(run(attention="standard"), run(attention="standard", d_model=384)) == [
        "Standard Transformer", "Standard Transformer, d_model 384"
    ]  # fmt: skip


def test_labels_are_unique() -> None:
    runs = [
        run(d_ff=d_ff, span=span, num_scales=scales, attention=attention)
        for d_ff in (100, 200) for span in (64, 128) for scales in (2, 3, 4) for attention in ("maha", "longformer")
    ]  # fmt: skip
    assert len(set(labels(*runs))) == len(runs)
