"""What a command says, and with which status it ends, when nobody reads it any more."""

import subprocess
import sys

COMMAND = "from data_pipeline.errors import user_errors\nwith user_errors():\n    "


def run(body: str) -> tuple[int, str]:
    """With a stdout whose reader is gone."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND + body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()  # what the body waits for
        told = process.stderr.read()
    return process.returncode, told


def test_a_command_behind_head_ends_without_a_word() -> None:
    for count in (1, 100_000):  # in stdout's buffer until the end, and too much for it
        assert run(f"import sys; sys.stdin.read(); print('line\\n' * {count})") == (141, "")


def test_another_broken_pipe_is_not_hidden() -> None:
    code = "import os; a, b = os.pipe(); os.close(a); os.write(b, b'x')"
    result = subprocess.run([sys.executable, "-c", COMMAND + code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "BrokenPipeError" in result.stderr


def test_a_command_whose_stdout_is_closed_ends_well() -> None:
    command = ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, COMMAND + "pass"]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
