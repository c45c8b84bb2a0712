"""The descent's Triton kernels: in the interpreter against the dense reference, and compiled for GPUs without one."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from maha_model.kernels.descent import Geometry, attend_level
from maha_model.kernels.descent.reference import attend_level_reference

B = 2


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The GPU's launcher, also where `attend_level` gets tensors of the CPU."""
    module = pytest.importorskip("maha_model.kernels.descent.triton")
    monkeypatch.setattr("maha_model.kernels.descent.operator.kernel_module", lambda *_: module)
    monkeypatch.setattr("maha_model.kernels.descent.operator._uses_operator", lambda *_: True)
    return module


def case(
    M: int, n: int, factor: int, *, slots: int | None, ratio: int = 2, span: int = 5, finer_span: int | None = None,
    choose: int = 3, heads: int = 2, groups: int | None = None, start: int = 0, dk: int = 6, d: int = 5,
    integers: bool = False, bounds: bool = False, biased: bool = True, seed: int = 0,
) -> SimpleNamespace:  # fmt: skip
    """Random inputs in float64; `slots` parents a query, from all finished tokens of the coarser scale, or None."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (x.round() if integers else x).requires_grad_()

    groups = groups or heads
    parents = bias = None
    if slots is not None:
        finished = (start + torch.arange(M) + 1) // (factor * ratio)
        order = torch.rand(B, groups, M, max(slots, int(finished.max())), generator=generator, dtype=torch.float64)
        order[..., : int(finished.max())].masked_fill_(torch.arange(int(finished.max())) >= finished[:, None], 2)
        order[..., int(finished.max()) :] = 2
        keys, index = order.sort(-1)
        parents = torch.where(keys < 1.5, index, -1)[..., :slots].int()
        bias = random(B, heads, M, slots) if biased else None
    return SimpleNamespace(
        q=random(B, M, heads, dk).transpose(1, 2),  # rows of several heads interleaved, as in use
        k=random(B, n, heads, 2 * dk if bounds else dk).transpose(1, 2),
        v=random(B, n, heads, d).transpose(1, 2),
        parents=parents,
        bias=bias,
        geometry=Geometry(
            factor, ratio, span, span if finer_span is None else finer_span, choose, groups, start, biased
        ),
    )


_INTEGERS = {"integers": True, "dk": 4}  # scores are multiples of 1/2: many ties
CASES = {
    "coarsest": {"M": 43, "n": 10, "factor": 4, "slots": None},
    "finer": {"M": 43, "n": 21, "factor": 2, "slots": 3},
    "finest": {"M": 42, "n": 42, "factor": 1, "slots": 3, "choose": 0, "span": 7},
    "ties": {"M": 41, "n": 41, "factor": 1, "slots": 4, "choose": 0, **_INTEGERS},
    "ties-coarsest": {"M": 45, "n": 22, "factor": 2, "slots": None, **_INTEGERS, "choose": 5},
    "ties-finer": {"M": 45, "n": 22, "factor": 2, "slots": 4, **_INTEGERS, "choose": 4, "span": 9},
    "more-than-there-is": {"M": 40, "n": 10, "factor": 4, "slots": 6, "choose": 9, "span": 2},
    "groups": {"M": 35, "n": 17, "factor": 2, "slots": 3, "heads": 4, "groups": 2, "choose": 4},
    "groups-coarsest": {"M": 35, "n": 17, "factor": 2, "slots": None, "heads": 4, "groups": 1},
    "groups-ties": {"M": 35, "n": 17, "factor": 2, "slots": 3, "heads": 4, "groups": 2, "choose": 4, **_INTEGERS},
    "start": {"M": 9, "n": 20, "factor": 3, "slots": 2, "ratio": 3, "start": 53},
    "one-query": {"M": 1, "n": 33, "factor": 2, "slots": 4, "start": 66, "choose": 4},
    "ratio-3": {"M": 50, "n": 16, "factor": 3, "slots": 3, "ratio": 3, "span": 4},
    "ratio-5-wide": {"M": 40, "n": 40, "factor": 1, "slots": 2, "ratio": 5, "choose": 0, "dk": 17, "d": 33},
    "pieces-without-pairs": {"M": 150, "n": 9, "factor": 16, "slots": 1, "ratio": 8, "span": 8, "heads": 1},
    "ratio-70": {"M": 150, "n": 150, "factor": 1, "slots": 1, "ratio": 70, "choose": 0, "span": 9, "heads": 1},
    "bounds": {"M": 43, "n": 21, "factor": 2, "slots": 3, "bounds": True, "finer_span": 9},
    "bounds-coarsest": {"M": 43, "n": 10, "factor": 4, "slots": None, "bounds": True, "biased": False},
    "bounds-groups": {"M": 35, "n": 17, "factor": 2, "slots": 3, "heads": 4, "groups": 2, "bounds": True,
                      "biased": False},
    "near-alone": {"M": 42, "n": 20, "factor": 2, "slots": 0, "choose": 0, "biased": False},
    "near-alone-chosen": {"M": 42, "n": 20, "factor": 2, "slots": 0, "span": 9},
    "all-near": {"M": 33, "n": 16, "factor": 2, "slots": 2, "span": 1000},
}  # fmt: skip


def run(function, inputs: SimpleNamespace) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[no-untyped-def]
    """Results, and gradients of all inputs from all results."""
    out, log_sum, _, share = results = function(*vars(inputs).values())
    there = log_sum > -torch.inf
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)).sum()
        for x in (out, torch.where(there, log_sum, 0.0), share)
    )
    leaves = [x for x in (inputs.q, inputs.k, inputs.v, inputs.bias) if x is not None]
    return [x.detach() for x in results], list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("name", CASES)
def test_triton_kernels_match_the_reference(name: str, launcher: ModuleType) -> None:
    """In Triton's interpreter (tests/conftest.py switches it on where there is no GPU): results and gradients."""
    inputs = case(**CASES[name])
    wanted, wanted_grads = run(attend_level_reference, inputs)
    results, grads = run(attend_level, inputs)
    assert torch.equal(results[2], wanted[2])
    for result, want in zip(results + grads, wanted + wanted_grads, strict=True):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["coarsest", "finer", "finest", "groups", "groups-coarsest", "one-query"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_queries_that_are_not_wanted_are_left_out(name: str, share: float, launcher: ModuleType) -> None:
    inputs = case(**CASES[name])
    wanted = torch.rand(B, inputs.geometry.groups, inputs.q.shape[2], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = attend_level_reference(*vars(inputs).values(), wanted < share)
        results = attend_level(*vars(inputs).values(), wanted < share)
    assert torch.equal(results[2], expected[2])
    for result, want in zip(results, expected, strict=True):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-9)


def test_a_scale_without_tokens_gives_nothing(launcher: ModuleType) -> None:
    inputs = case(M=5, n=0, factor=8, slots=None)
    (out, log_sum, chosen, share), grads = run(attend_level, inputs)
    assert not out.any()
    assert bool((log_sum == -torch.inf).all())
    assert bool((chosen == -1).all())
    assert not share.any()
    assert not grads[0].any()


def test_gradients_of_one_piece_are_those_of_many(launcher: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(**CASES["finer"])
    _, wanted = run(attend_level_reference, inputs)
    monkeypatch.setattr(launcher, "PROGRAMS", 1)
    _, grads = run(attend_level, inputs)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=0, atol=1e-9)


_COMPILE_FOR_GPU = """
import os, re, subprocess, sys
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from maha_model.kernels.descent import triton_kernels, triton_kernels_choice
from maha_model.kernels.descent import triton_kernels_keys, triton_kernels_queries
from maha_model.kernels.descent.triton_call import blocks

capability, DK, DV, folder = *map(int, sys.argv[1:4]), Path(sys.argv[4])
limit = dict(maxnreg=int(sys.argv[5])) if sys.argv[5:] else {}  # registers of the first kernel, alone
block = blocks(torch.bfloat16, DK, 4)
constants = dict(
    DENSE=False, DK=DK, DV=DV, RATIO=4, RP=4, KP=8, PP=8, F=32, SCALE=DK**-0.5, REAL=triton.language.float32,
    PRECISION="tf32", KEEP=True, SOME=True, AT=DK == 64, TOGETHER=False, HAS_GRAD_LOG_SUM=True, HAS_GRAD_SHARE=True,
)
wide = "log_sum near_log_sum near_out far_scores bias share grad_log_sum grad_share delta tiles_grad_q pull grad_bias"
types = dict.fromkeys(wide.split(), "*fp32")
types |= dict.fromkeys(("parents", "chosen"), "*i32")
types |= dict(wanted="*i1", position="*i64", parent_keys="*i16")
types |= dict.fromkeys(("parent_order", "parent_begin", "chosen_order", "chosen_begin"), "*i64")
types |= dict.fromkeys(("q_strides", "k_strides", "v_strides"), ("i64",) * 3)
types |= dict(sizes=("i32",) * 8, place=("i32",) * 5, pieces="i32", tiles_grad_k="*fp32", tiles_grad_v="*fp32")
aligned = [["tt.divisibility", 16]]
ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
for kernel, shape in (
    (triton_kernels.attend_tiles, block.attend),
    (triton_kernels.attend_children, block.gather),
    (triton_kernels_choice.choose, block.choose),
    (triton_kernels_choice.share_of_group, block.gather),
    (triton_kernels_queries.query_gradients_of_tiles, block.queries),
    (triton_kernels_queries.query_gradients_of_children, block.gather),
    (triton_kernels_keys.key_gradients_of_tiles, block.keys),
    (triton_kernels_keys.key_gradients_of_pairs, block.pairs),
):
    names = kernel.arg_names
    known = {name: value for name, value in (constants | shape).items() if name in names}
    signature = {name: "constexpr" if name in known else types.get(name, "*bf16") for name in names}
    values = {(names.index(name),): value for name, value in known.items()}
    attributes = {(i,): aligned for i, name in enumerate(names) if str(signature[name]).startswith("*")}
    attributes |= {(i, axis): aligned for i, name in enumerate(names) if "strides" in name for axis in range(3)}
    attributes |= {(names.index("sizes"), i): aligned for i in (6, 7)}  # the widths
    source = triton.compiler.ASTSource(kernel, signature, values, attributes)
    options = {name: value for name, value in shape.items() if name.startswith("num_")} | limit
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = folder / f"{kernel.fn.__name__}.ptx"
    ptx.write_text(compiled.asm["ptx"])
    target = f"-arch=sm_{capability}" + "a" * (capability == 90)
    command = [ptxas, "-v", target, ptx, "-o", os.devnull]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall("([0-9]+) bytes spill", report)
    registers = re.search("Used ([0-9]+) registers", report)[1]
    spilled = max(map(int, spills))
    print(kernel.fn.__name__, f"registers={registers} shared={compiled.metadata.shared} spilled={spilled}")
    if limit:
        break
"""


def compiled(*arguments: object) -> list[str]:
    """A line for each kernel, compiled outside of the interpreter."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _COMPILE_FOR_GPU, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("capability", "key_width", "width"), [(90, 128, 128), (90, 64, 64), (80, 128, 128), (90, 256, 128), (90, 128, 64)]
)
def test_triton_kernels_spill_nothing_on_a_gpu(capability: int, key_width: int, width: int, tmp_path: Path) -> None:
    """Compiled for it without one: k = 8, ratio 4, bfloat16. Bounds are keys of twice the width."""
    lines = compiled(capability, key_width, width, tmp_path)
    assert len(lines) == 8
    assert all(line.endswith(" spilled=0") for line in lines), lines


def test_a_spill_is_seen(tmp_path: Path) -> None:
    (line,) = compiled(80, 64, 64, tmp_path, 64)
    assert line.startswith("attend_tiles registers=64 ")
    assert not line.endswith(" spilled=0")
