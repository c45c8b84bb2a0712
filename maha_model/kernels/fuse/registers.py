"""Registers, spilled bytes and shared memory of the fusion's GPU kernels, compiled without a GPU.

    python -m maha_model.kernels.fuse.registers [--scales 2 4] [--widths 64] [--kinds utility] [--capabilities 90]

prints one JSON object a kernel and tile size, compiled as it would be launched for bfloat16 outputs. ptxas, which comes
with Triton, counts the registers.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import sm_arch_from_capability

from maha_model.arguments import OneLineParser
from maha_model.kernels.fuse.problem import Placement, Problem
from maha_model.kernels.fuse.triton import Launch, plan_backward, plan_forward
from maha_model.kernels.qp.constants import MAX_SCALES

PROBLEMS = {
    "utility": Problem("utility"),
    "target": Problem("target", domain="budget", normalize=True),  # the most numbers, and the longest solver
    "output": Problem("output", domain="box", own_gain=True, normalize=True),
    "given": Problem("given"),
}

CAPABILITIES = (80, 86, 87, 89, 90)
"""Ten times those of the GPUs that compute in bfloat16, as far as this ptxas assembles for them."""


class _NoDevice:
    """What Triton's launcher needs of a driver to compile for a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch  # kernels are kept for each device

    def get_current_stream(self, _: int) -> int:
        return 0


def launches(num_scales: int, width: int, problem: Problem, ratio: int = 4) -> list[tuple[str, Launch]]:
    """The launches of forward and backward at 65,536 positions and 16 heads, on tensors without data."""
    N, H, dtype = 65536, 16, torch.bfloat16
    places = [Placement(ratio**level - 1, ratio**level) for level in range(num_scales)]
    problem = Problem(**{**vars(problem), "prices": (0.1,) * num_scales})

    def rows(count: int) -> torch.Tensor:
        return torch.empty(1, count, H, width, dtype=dtype, device="meta")

    outputs = [rows(max(1, N // place.factor)).transpose(1, 2) for place in places]
    linear = torch.empty(1, N, num_scales, H, device="meta") if problem.kind in ("utility", "given") else None
    target = rows(N) if problem.kind == "target" else None
    (_, weights, active_set), forward = plan_forward(outputs, linear, target, places, N, problem)
    grad_weights = None if problem.kind == "given" else weights
    _, backward = plan_backward(rows(N), grad_weights, outputs, linear, target, active_set, places, problem)
    return [("forward", each) for each in forward] + [("backward", each) for each in backward]


def measure(launch: Launch, capability: int) -> Iterator[dict[str, Any]]:
    """Figures of a kernel for every tile that the autotuner can choose."""
    triton.runtime.driver.set_active(_NoDevice(capability))
    compiled = launch.kernel.warmup(**launch.arguments, grid=(1,))
    tiles = [config.kwargs for config in getattr(launch.kernel, "configs", ())] or [{}]
    for tile, each in zip(tiles, compiled if isinstance(compiled, list) else [compiled], strict=True):
        report = _assemble(each.asm["ptx"], capability)
        offsets = re.findall(r"tt\.addptr .*, (?:tensor<(?:\d+x)+)?i(\d+)>? loc", each.asm["ttir"])
        yield {
            "kernel": each.metadata.name, "warps": each.metadata.num_warps, "numbers_a_lane": tile.get("ELEMENTS", 1),
            "registers": int(re.findall(r"Used (\d+) registers", report)[0]),
            "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
            "shared_bytes": each.metadata.shared, "offset_bits": min(map(int, offsets)),
        }  # fmt: skip


def _assemble(ptx: str, capability: int) -> str:
    """What ptxas reports."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={sm_arch_from_capability(capability)}"]
        result = subprocess.run(
            [*command, str(source), "-o", f"{folder}/kernel.cubin"], capture_output=True, text=True, check=True
        )
    return result.stderr


def _width(text: str) -> int:
    """The `type` of an option that takes a head's width."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main() -> None:
    """Print the table."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scales = range(1, MAX_SCALES + 1)
    parser.add_argument("--scales", type=int, nargs="+", default=list(scales[1:]), choices=scales)
    parser.add_argument("--widths", type=_width, nargs="+", default=[64, 128], help="of a head")
    parser.add_argument("--kinds", nargs="+", default=["utility", "target"], choices=PROBLEMS)
    parser.add_argument(
        "--capabilities", type=int, nargs="+", default=[80, 90], choices=CAPABILITIES,
        help="80 is A100, 90 H100 and H200",
    )  # fmt: skip
    options = parser.parse_args()
    for kind in options.kinds:
        for num_scales in options.scales:
            for width in options.widths:
                for capability in options.capabilities:
                    case = {"capability": capability, "kind": kind, "scales": num_scales, "width": width}
                    for direction, launch in launches(num_scales, width, PROBLEMS[kind]):
                        for figures in measure(launch, capability):
                            print(json.dumps(case | {"pass": direction} | figures), flush=True)


if __name__ == "__main__":
    main()
