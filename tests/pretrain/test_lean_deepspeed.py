"""DeepSpeed is silent while it is imported, and keeps out of stdout."""

from tests.conftest import Run

SCRIPT = """
import os
os.environ.pop("DS_ACCELERATOR", None)  # without it DeepSpeed tells what it has found
from pretrain.lean_deepspeed import deepspeed, set_log_level
set_log_level()
for level in ("info", "warning"):
    getattr(deepspeed.utils.logger, level)(f"this is of level {level}")
"""


def test_messages_go_to_stderr_from_the_level_that_is_given(run_command: Run) -> None:
    for given, levels in (({}, ["warning"]), ({"MAHA_DEEPSPEED_LOG": "info"}, ["info", "warning"])):
        result = run_command("-c", SCRIPT, **given)
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        assert [line.split()[-1] for line in result.stderr.splitlines()] == levels


def test_a_level_that_is_not_there_is_one_line(run_command: Run, assert_user_error) -> None:
    script = "from data_pipeline import user_errors\nfrom pretrain.distributed import join_process_group\n"
    result = run_command("-c", f"{script}with user_errors(): join_process_group()", MAHA_DEEPSPEED_LOG="loud")
    assert_user_error(result, "MAHA_DEEPSPEED_LOG is 'loud'; give DEBUG")
