"""What a run may start from: the same model but for its contexts, its own tokenizer, and not together with a resume."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import Manifest, UserError
from maha_model import AggregationConfig, ConfigError, ModelConfig
from pretrain.check_init import check_init
from pretrain.checkpoint import find_checkpoint, read_info
from pretrain.config import RunConfig, parse_config
from pretrain.export import export
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING
from tests.pretrain.checkpoint.test_store import CONFIG, save

MAHA = dataclasses.replace(CONFIG, attention="maha", num_scales=2, ratio=2)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"context_length": 64}, {"rope_base": 5e5}, {"dropout": 0.1}, {"num_scales": 4},
        {"num_scales": 3, "context_length": 128, "rope_base": 2e4},
        {"num_scales": 3, "aggregation": AggregationConfig(costs=[1, 1, 2])},
    ],
)  # fmt: skip
def test_contexts_may_be_longer_and_scales_more(changes: dict[str, Any], tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path, data, 1, config=MAHA)
    check_init(path, RunConfig(model=dataclasses.replace(MAHA, **changes)), data)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"d_ff": 20}, f"--model.d_ff {MAHA.d_ff}"),
        ({"num_scales": 1}, "--model.num_scales 2 or more"),
        ({"ratio": 4, "norm": "layernorm"}, r'--model.ratio 2, --model.norm "rmsnorm"'),
        ({"aggregation": AggregationConfig(strategy="mean")}, '--model.aggregation.strategy "convex"'),
        ({"vocab_size": 600}, f"--model.vocab_size {MAHA.vocab_size}"),
        ({"span": 2}, f"--model.span {MAHA.span}"),
        ({"descent": 1, "query": "fine", "positions": "token", "span": 8}, "--model.descent 0"),
    ],
)
def test_options_that_differ_are_named(changes: dict[str, Any], named: str, tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path, data, 1, config=MAHA)
    with pytest.raises(UserError) as raised:
        check_init(path, RunConfig(model=dataclasses.replace(MAHA, **changes)), data)
    assert named in str(raised.value)


def test_the_width_of_separate_queries_is_kept_with_more_scales(tmp_path: Path, data: Manifest) -> None:
    """It is shared out over the scales unless it is given."""
    config = dataclasses.replace(MAHA, d_model=32, projections="separate")
    path, _ = save(tmp_path, data, 1, config=config)
    more = dataclasses.replace(config, num_scales=4)
    with pytest.raises(UserError, match=f"--model.qk_dim {config.scale_qk_dim}"):
        check_init(path, RunConfig(model=more), data)
    check_init(path, RunConfig(model=dataclasses.replace(more, qk_dim=config.scale_qk_dim)), data)


def test_data_of_another_tokenizer_are_refused_with_the_way_to_make_them(
    tmp_path: Path, data: Manifest, json_data: Manifest
) -> None:
    path, _ = save(tmp_path, data, 1, config=MAHA)
    with pytest.raises(UserError, match=rf"another tokenizer .* --tokenizer {path}"):
        check_init(path, RunConfig(model=MAHA), json_data)


def test_to_start_and_to_continue_at_once_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="init_from model starts a new run from weights, and resume runs/a continues"):
        RunConfig(init_from="model", resume="runs/a")
    RunConfig(init_from="model", resume="auto")  # what a job that may be interrupted is started with


def test_a_run_starts_from_an_export_with_longer_contexts_and_more_scales_and_resumes_itself(
    tmp_path: Path, data: Manifest
) -> None:
    def run(name: str, *options: str) -> list[dict[str, Any]]:
        command = [f"--data={data.folder}", f"--out={tmp_path / name}", *MODEL, *TRAINING, *options]
        result = ForkedRun(1, *command).wait()
        assert result.returncode == 0, result.stdout
        printed.append(result.stdout)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "loss" in line]

    printed: list[str] = []
    trained = parse_config([*MODEL, "--model.num_scales=2", f"--model.vocab_size={data.vocab_size}"]).model
    save(tmp_path / "first", data, 3, config=trained)
    export(tmp_path / "first", tmp_path / "model")
    longer = [
        f"--init_from={tmp_path / 'model'}", "--resume=auto", "--model.num_scales=3", "--model.context_length=128",
        "--checkpoint_interval=2",
    ]  # fmt: skip
    whole = run("whole", *longer, "--steps=4")
    assert f"started a new run from the weights of {tmp_path / 'model'}" in printed[-1]
    assert [line["step"] for line in whole] == [1, 2, 3, 4]
    assert [line["lr"] for line in whole][:3] == pytest.approx([0.003 * step / 4 for step in (1, 2, 3)])
    info = read_info(find_checkpoint(tmp_path / "whole"))
    assert (info.step, info.samples) == (4, 4 * 8)
    before = read_info(find_checkpoint(tmp_path / "first"))
    assert info.origin == {"step": 3, "tokens": before.tokens, "data_fingerprint": data.fingerprint}
    assert ModelConfig.from_saved(info.model).num_scales == 3
    resumed = run("whole", *longer, "--steps=6")
    assert "resumed " in printed[-1]
    assert "started a new run" not in printed[-1]
    assert [line["step"] for line in resumed] == [1, 2, 3, 4, 5, 6]
    assert read_info(find_checkpoint(tmp_path / "whole")).origin == info.origin
