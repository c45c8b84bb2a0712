"""What a save takes of each rank's memory and of training's time: python -m eval.bench checkpoints --data DATA

Runs of 2 and 4 processes on this machine, of a model whose states are hundreds of MB, with ZeRO 1 and 3. Its steps are
short (a few windows of 64 tokens): a save's share of a real run is smaller.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline import CommandParser, UserError, user_errors
from eval.bench.criteria import Criterion, print_report

STEPS_PER_SAVE = 100
RANKS = (2, 4)
STAGES = (1, 3)
MODEL = (
    "--model.context_length=64", "--model.d_model=512", "--model.num_layers=2", "--model.num_heads=8",
    "--model.d_ff=4096", "--model.span=16", "--precision=float32",
)  # fmt: skip
RUN = (
    "--steps=1000", "--global_batch_size=8", "--micro_batch_size=2", "--eval_interval=1000", "--spike_threshold=0",
    "--checkpoint_interval=1000", "--keep_checkpoints=1", "--log_interval=1000",
)  # fmt: skip


def measure(data: str, ranks: int, stage: int) -> list[dict[str, float]]:
    """What each rank of a run measured (see `eval.bench.checkpoint_rank`). Raises UserError if one fails."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
        free.close()
        options = [f"--data={data}", f"--out={folder}/run", f"--deepspeed=ds_configs/zero{stage}.json", *MODEL, *RUN]
        command = [sys.executable, "-m", "eval.bench.checkpoint_rank", f"{folder}/result", *options]
        shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                command,
                env={"DS_ACCELERATOR": "cpu", **os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=sys.stderr,
            )
            for rank in range(ranks)
        ]
        try:
            if any(process.wait() for process in processes):
                raise UserError(f"a run of {ranks} processes failed; its own message is above")
        finally:
            for process in processes:
                process.kill()
        return [json.loads(Path(f"{folder}/result-rank-{rank}.json").read_text()) for rank in range(ranks)]


def criteria_of(ranks: int, stage: int, results: list[dict[str, float]]) -> list[Criterion]:
    """The limits of one run, for its worst rank."""
    run = f"{ranks} ranks, ZeRO {stage}"
    cost, waiting = (
        max(result[name] / (STEPS_PER_SAVE * result["step"]) for result in results) for name in ("cost", "waiting")
    )
    return [
        Criterion(
            f"memory of a save over the rank's share, {run}", max(it["grown"] / it["share"] for it in results), 1.2
        ),
        Criterion(f"largest share over the smallest, {run}", _spread([it["share"] for it in results]), 1.1),
        Criterion(f"a save every {STEPS_PER_SAVE} steps, share of the run, {run}", cost, 0.02),
        Criterion(f"of it training's wait, {run}", waiting, 0.02),
    ]


def _spread(values: list[float]) -> float:
    return max(values) / min(values)


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set made by data_pipeline.prepare")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    criteria: list[Criterion] = []
    runs: list[dict[str, Any]] = []
    with user_errors():
        for ranks in RANKS:
            for stage in STAGES:
                results = measure(arguments.data, ranks, stage)
                runs.append({"ranks": ranks, "zero": stage, "by_rank": results})
                criteria += criteria_of(ranks, stage, results)
    lines = [
        f"{run['ranks']} ranks, ZeRO {run['zero']}: {max(it['share'] for it in run['by_rank']) / 1e6:.0f} MB a rank, "
        f"{max(it['waiting'] for it in run['by_rank']):.2f} s waiting, steps of {run['by_rank'][0]['step']:.2f} s"
        for run in runs
    ]
    print_report(lines, criteria, {"runs": runs}, arguments.json)


if __name__ == "__main__":
    main()
