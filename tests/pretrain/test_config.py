"""The configuration: shipped files, overrides, and mistakes named with the nearest valid key."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_pipeline import Manifest, UserError
from maha_model import ConfigError, ModelConfig
from pretrain.config import RunConfig, parse_config, read_deepspeed_config
from pretrain.preflight import main
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "pretrain" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_parses_and_builds_a_model(path: Path) -> None:
    config = parse_config(["--config", str(path)])
    assert set(yaml.safe_load(path.read_text())) <= set(RunConfig.__dataclass_fields__)
    assert ModelConfig.from_dict({**config.model.to_dict(), "vocab_size": 4096}).vocab_size == 4096
    assert read_deepspeed_config(config)["zero_optimization"]["stage"] in range(4)


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_deepspeed_configuration_leaves_the_runs_settings_alone(path: Path) -> None:
    values = read_deepspeed_config(RunConfig(deepspeed=path, precision="float32"))
    assert f"zero{values['zero_optimization']['stage']}" in path.stem


def test_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 5\noptimizer:\n  lr: 0.5\nmodel:\n  aggregation:\n    strategy: nash\n")
    config = parse_config(["--config", str(file), "--steps", "7", "--model.span", "full", "--out", "elsewhere"])
    assert (config.steps, config.optimizer.lr, config.model.aggregation.strategy) == (7, 0.5, "nash")
    assert (config.model.span, config.out) == ("full", Path("elsewhere"))


def test_the_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = parse_config(["--model.num_layers", "3", "--model.aggregation.costs", "[1, 2, 3]", "--seed", "9"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert parse_config(["--config", str(tmp_path / "c.yaml")]) == config


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["--optimizer.lrr", "1"], "", "unknown configuration key optimizer.lrr; did you mean optimizer.lr?"),
        ([], "optimzer:\n  lr: 1\n", "unknown configuration key optimzer.lr; did you mean optimizer.lr?"),
        ([], "model:\n  d_modle: 64\n", "unknown configuration key model.d_modle; did you mean model.d_model?"),
        ([], "model:\n  aggregation:\n    stratgy: nash\n", "did you mean model.aggregation.strategy?"),
        (
            ["--optimizer.schedule.name", "wsd"],
            "",
            "unknown configuration key optimizer.schedule.name; did you mean",
        ),
        (["--steps", "many"], "", "configuration: steps is many; give a whole number"),
        (["--model.span", "wide"], "", "configuration: model.span is wide; give a whole number or full"),
        (["--model.query", "corse"], "", "configuration: model.query is corse; give coarse or fine"),
        (["--model", "small"], "", "configuration: model is small; give its settings"),
        ([], "model: [", "is not YAML: "),
        ([], "steps: 5\nsteps: 6\n", "steps stands there twice"),
        ([], "- 3\n", "its content is [3]; give settings"),
        ([], "optimizer: 3\n", "optimizer is 3; give settings, each with its name"),
        ([], "model:\n  aggregation:\n", "model.aggregation is None; give settings"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, arguments: list[str], content: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content or "steps: 5\n")
    with pytest.raises(UserError) as raised:
        parse_config(["--config", str(tmp_path / "c.yaml"), *arguments])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff")
    reasons = {"nowhere.yaml": "No such file", str(tmp_path): "directory", str(tmp_path / "c.yaml"): "utf-8"}
    for path, reason in reasons.items():
        for arguments in (["--config", path], [f"--config={path}"]):
            with pytest.raises(UserError, match=f"{path} .*{reason}"):
                parse_config(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--model.num_heads", "7"],
        ["--optimizer.lr", "-1"],
        ["--optimizer.eps", "0"],
        ["--optimizer.weight_decay", "-0.1"],
        ["--optimizer.grad_clip", "-1"],
        ["--optimizer.beta1", "1"],
        ["--optimizer.beta2", "-0.5"],
        ["--optimizer.min_lr_ratio", "1.5"],
        ["--seed", "-1"],
        ["--seed", str(2**63)],
        ["--model.init_std", "-1"],
        ["--model.aggregation.costs", "[-1, 1, 1]"],
        ["--skip_batches", "-1"],
        ["--max_rollbacks", "-1"],
        ["--profile", "25:20"],
        ["--profile", "20"],
        ["--experiment", " "],
    ],
)
def test_impossible_values_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_config(arguments)


def test_batch_sizes_must_fit_the_world_size() -> None:
    config = parse_config(["--global_batch_size", "8", "--micro_batch_size", "2"])
    assert [config.accumulation_steps(world) for world in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(
        UserError, match=r"not a multiple of micro_batch_size 2 times 3 processes.*--global_batch_size 12"
    ):
        config.accumulation_steps(3)


def test_deepspeed_files_may_not_set_what_the_run_sets(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"train_batch_size": 8, "zero_optimization": {"stage": 1}}')
    with pytest.raises(UserError, match="sets train_batch_size; remove it there"):
        read_deepspeed_config(RunConfig(deepspeed=tmp_path / "ds.json"))
    (tmp_path / "ds.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_deepspeed_config(RunConfig(deepspeed=tmp_path / "ds.json"))
    with pytest.raises(UserError, match="does not exist"):
        read_deepspeed_config(RunConfig(deepspeed=tmp_path / "none.json"))


def test_bfloat16_needs_the_float32_weights_of_zero_1() -> None:
    zero0 = ROOT / "ds_configs" / "zero0.json"
    with pytest.raises(UserError, match=r"choose ds_configs/zero1\.json, or --precision float32"):
        read_deepspeed_config(RunConfig(deepspeed=zero0, precision="bfloat16"))
    read_deepspeed_config(RunConfig(deepspeed=ROOT / "ds_configs" / "zero1.json", precision="bfloat16"))


def test_gradients_are_summed_in_float32_in_bfloat16_alone_and_the_users_file_has_the_last_word(tmp_path: Path) -> None:
    def dtypes(path: Path, precision: str) -> tuple[str | None, str | None]:
        settings = read_deepspeed_config(RunConfig(deepspeed=path, precision=precision))
        return settings.get("data_types", {}).get("grad_accum_dtype"), settings.get("communication_data_type")

    for path in sorted((ROOT / "ds_configs").glob("*.json")):
        assert dtypes(path, "float32") == (None, None)
        if path.name != "zero0.json":
            assert dtypes(path, "bfloat16") == ("fp32", "fp32")
    own, zero = tmp_path / "own.json", {"zero_optimization": {"stage": 2}}
    own.write_text(json.dumps({**zero, "communication_data_type": "bf16"}))
    assert dtypes(own, "bfloat16") == ("fp32", "bf16")
    own.write_text(json.dumps({**zero, "data_types": {"grad_accum_dtype": "bf16"}}))
    assert dtypes(own, "bfloat16") == ("bf16", "fp32")


Check = Callable[..., None]


def test_the_preflight_command_reports_mistakes_with_status_2(
    tmp_path: Path,
    run_command: Callable,
    assert_user_error: Check,
    data: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its `main` in this process, where that is enough: a command imports for seconds."""
    small = ("--model.context_length", 64, "--model.d_model", 32, "--model.num_heads", 4)
    command = ("--data", data.folder, "--out", tmp_path / "run", *small)

    def preflight(*options: object) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["preflight", *map(str, (*command, *options))])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess([], ended.value.code, *capsys.readouterr())

    assert run_command("-m", "pretrain.preflight", *command).returncode == 0
    mistaken = run_command("-m", "pretrain.preflight", *command, "--modle.span", 8)
    assert_user_error(mistaken, "did you mean model.span?")
    assert_user_error(preflight("--model.num_heads", 5), "does not divide")
    assert_user_error(preflight("--model.context_length", 10**6), "is longer than the data")
    assert_user_error(preflight("--resume", tmp_path / "none"), "does not exist")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert_user_error(preflight("--global_batch_size", 8), "3 processes")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("joined", [True, False])
def test_a_run_is_configured_by_shipped_files_from_another_folder(
    joined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = parse_config(["--config", str(ROOT / "pretrain/configs/paper.yaml")])
    monkeypatch.chdir(tmp_path)
    name = "pretrain/configs/paper.yaml"
    options = [f"--config={name}"] if joined else ["--config", name]
    assert parse_config(options) == here
    stage = read_deepspeed_config(parse_config([*options, "--deepspeed", "ds_configs/zero2.json"]))
    assert stage["zero_optimization"]["stage"] == 2
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        parse_config(["--config", "nowhere.yaml"])


def test_a_tilde_is_the_home_folder_in_options_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("data: ~/data\ndeepspeed: ~/ds.json\nprecision: float32\n")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    for options in (["--config", "~/c.yaml", "--out", "~/runs/1"], ["--config=~/c.yaml", "--out=~/runs/1"]):
        config = parse_config(options)
        assert (config.data, config.out) == (tmp_path / "data", tmp_path / "runs" / "1")
        assert read_deepspeed_config(config)["zero_optimization"]["stage"] == 2
    with pytest.raises(UserError, match="home folder that does not exist"):
        parse_config(["--out", "~nobody-of-this-name/runs"])


def test_windows_that_processes_share_are_batches_of_their_groups() -> None:
    config = RunConfig(global_batch_size=8, micro_batch_size=2, context_parallel=2)
    assert [config.accumulation_steps(world) for world in (2, 4, 8)] == [4, 2, 1]
    with pytest.raises(UserError, match="context_parallel 2 does not divide the 3 processes"):
        config.accumulation_steps(3)
    with pytest.raises(UserError, match="times 8 groups of 2 processes"):
        config.accumulation_steps(16)
    assert [config.context_split(rank).place for rank in range(4)] == [0, 1, 0, 1]
