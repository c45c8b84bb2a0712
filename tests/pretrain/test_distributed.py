"""How processes find each other."""

import json

from tests.conftest import Run

SCRIPT = """
import json, psutil, torch.distributed as dist
from pretrain.distributed import join_process_group
rank = join_process_group()
assert rank.sum(3) == [3]
print("LISTENS", json.dumps([c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"]))
dist.destroy_process_group()
"""


def test_nothing_listens_beyond_the_master_address(run_command: Run) -> None:
    """The rendezvous and gloo: 127.0.0.1 is an address that no other machine reaches."""
    result = run_command("-c", SCRIPT, MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("LISTENS "))
    listening = json.loads(line.removeprefix("LISTENS "))
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_an_address_of_another_machine_is_one_line(run_command: Run, assert_user_error) -> None:
    script = "from data_pipeline import user_errors\nfrom pretrain.distributed import join_process_group\n"
    script += "with user_errors(): join_process_group()"
    result = run_command("-c", script, MASTER_ADDR="192.0.2.1", MASTER_PORT="29500", DS_ACCELERATOR="cpu")
    assert_user_error(result, "cannot listen at MASTER_ADDR 192.0.2.1, MASTER_PORT 29500")
