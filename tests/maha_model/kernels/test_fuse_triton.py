"""The fused operator's Triton kernels: in the interpreter against plain torch, and compiled for a GPU without one."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from maha_model.kernels.fuse import Problem
from tests.maha_model.kernels.test_fuse import PROBLEMS, assert_close, case, expected, fused, run


def row_counts(inputs: SimpleNamespace) -> list[int]:
    return [output.shape[2] for output in inputs.outputs]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind}-{p.domain}")
def test_triton_kernels_match_plain_torch(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter (tests/conftest.py switches it on where there is no GPU)."""
    launcher = pytest.importorskip("maha_model.kernels.fuse.triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    monkeypatch.setattr("maha_model.kernels.fuse.operator.kernel_module", lambda *_: launcher)
    for N, L, d, mode in ((37, 4, 8, "coarse"), (70, 3, 6, "fine")):
        inputs = case(problem, N, L, d, mode=mode)
        wanted = expected(inputs, monkeypatch)
        for name in ("linear", "target"):
            x = getattr(inputs, name)
            setattr(inputs, name, None if x is None else x.detach().to(device).requires_grad_())
        inputs.outputs = [x.detach().to(device).requires_grad_() for x in inputs.outputs]
        assert_close([x.cpu() for x in run(fused, inputs)], wanted, 1e-9)


def test_triton_kernels_leave_what_they_cannot_do_to_plain_torch() -> None:
    launcher = pytest.importorskip("maha_model.kernels.fuse.triton")
    odd = case(PROBLEMS[0], 50, 3, 8, ratio=3)
    tail = case(PROBLEMS[0], 51, 3, 8, mode="bidirectional")
    for inputs, reason in ((odd, "1, 3, 9 positions"), (tail, "after a scale's last row")):
        assert reason in launcher.unsupported(row_counts(inputs), inputs.placements, inputs.length)


_COMPILE_FOR_GPU = """
import triton
from triton.backends.compiler import GPUTarget
from maha_model.kernels.fuse import triton_kernels as kernels
from maha_model.kernels.fuse.triton import POSITIONS

L, data = 4, "*bf16"
constants = dict(
    PRICES=(0.1,) * L, REDUNDANCY=1.0, RIDGE=1.0, FACTORS=(1, 2, 4, 8), KIND=0, DOMAIN=0, OWN=False, NORMALIZE=False,
    L=L, LP=4, D=64, T=POSITIONS, REAL=kernels.tl.float32, EPS=2.0**-23, HAS_GRAD_WEIGHTS=False,
)
types = dict(
    outputs=(data,) * L, strides=(("i64",) * 3,) * L, linear="*fp32", linear_strides=("i64",) * 4, target=data,
    target_strides=("i64",) * 3, combined=data, weights="*fp32", active_set="*i32", heads="i32", length="i32",
    width="i32", first=("i32",) * L, lead="i32", grad_combined=data, grad_weights="*fp32", grad_outputs=(data,) * L,
    rows=("i32",) * L, grad_linear="*fp32", grad_target=data,
)
for kernel in (kernels.forward_kernel, kernels.backward_kernel):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items() if name in names}
    source = triton.compiler.ASTSource(kernel, signature, values)
    print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))
"""


def test_triton_kernels_compile_for_a_gpu_without_one() -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", _COMPILE_FOR_GPU], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert all(int(size) > 1000 for size in result.stdout.split())
