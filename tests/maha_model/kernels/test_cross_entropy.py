"""The head and its loss: torch's value and gradient, in memory that does not grow with positions times tokens."""

import pytest
import torch

from maha_model.kernels.cross_entropy import linear_cross_entropy, reference
from maha_model.kernels.cross_entropy import operator as module
from pretrain.memory import LiveBytes


def case(positions: int, tokens: int, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = ((3 * torch.randn(n, width)).to(dtype).requires_grad_() for n in (positions, tokens))
    targets = torch.randint(tokens, (positions,))
    targets[::5] = -100
    return [hidden, weight, targets]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("chunk", [1, 40, 2**22])
def test_it_is_torchs_loss_and_gradient(
    dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.CHUNK, "cpu", chunk)
    hidden, weight, targets = case(23, 17, 6, dtype)
    expected, loss = (f(hidden, weight, targets, -100) for f in (reference.linear_cross_entropy, linear_cross_entropy))
    assert loss.dtype == expected.dtype
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(3 * value, (hidden, weight)) for value in (loss, expected)]
    for gradient, want in zip(*gradients, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, want, rtol=tolerance, atol=tolerance)
    assert not gradients[0][0][::5].any()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's kernel, in Triton's interpreter, also for tensors of the CPU."""
    launcher = pytest.importorskip("maha_model.kernels.cross_entropy.triton")
    monkeypatch.setattr(launcher, "_BLOCK", 8)  # several to a row
    monkeypatch.setattr(module, "kernel_module", lambda *_: launcher)
    monkeypatch.setattr(module, "_uses_kernel", lambda *_: True)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("chunk", [40, 2**22])
def test_the_kernel_of_gpus_gives_it_too(
    dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_it_is_torchs_loss_and_gradient(dtype, tolerance, chunk, monkeypatch)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_autocast_gives_it_to_its_precision(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 weights, logits and their gradient in bfloat16; on a GPU by its product of these with wide sums."""

    def wide_product(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        assert a.dtype == b.dtype == torch.bfloat16  # a GPU takes nothing else
        with torch.autocast("cpu", enabled=False):
            return a.to(out_dtype) @ b.to(out_dtype)

    if gpu:
        monkeypatch.setattr(module, "device_kind", lambda _: "cuda")
        monkeypatch.setattr(torch, "mm", wide_product)
    hidden, weight, targets = case(23, 17, 6)
    hidden.data /= 9  # logits of about 1, of which bfloat16 keeps enough
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, -100)
    expected = reference.linear_cross_entropy(hidden, weight, targets, -100)
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    gradients = [torch.autograd.grad(value, (hidden, weight)) for value in (loss, expected)]
    for gradient, want in zip(*gradients, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, want, rtol=0, atol=2e-2 * float(want.abs().max()))


@pytest.mark.usefixtures("kernel")
def test_a_target_that_is_no_token_makes_the_kernels_loss_nan() -> None:
    hidden, weight, _ = case(3, 5, 4)
    assert linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 5]), -100).isnan()
    assert linear_cross_entropy(hidden, weight, torch.tensor([1, 2, -1]), -100).isnan()
    assert linear_cross_entropy(hidden, weight, torch.full((3,), -100), -100).isnan()


@pytest.mark.usefixtures("kernel")
def test_the_kernel_compiles_whole_and_computes_no_gradient_in_evaluation() -> None:
    test_it_compiles_whole()
    hidden, weight, targets = case(9, 5, 4)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, -100)
    torch.testing.assert_close(loss, reference.linear_cross_entropy(hidden, weight, targets, -100).detach())


def test_without_a_scored_position_it_is_nan_and_a_target_that_is_no_token_is_refused() -> None:
    hidden, weight, _ = case(3, 5, 4)
    assert linear_cross_entropy(hidden, weight, torch.full((3,), -100), -100).isnan()
    with pytest.raises(RuntimeError):
        linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 5]), -100)


def test_it_compiles_whole() -> None:
    hidden, weight, targets = case(9, 5, 4)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    gradients = [
        torch.autograd.grad(f(hidden, weight, targets, -100), (hidden, weight))
        for f in (compiled, linear_cross_entropy)
    ]
    for gradient, want in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_bytes_do_not_grow_with_positions_times_tokens(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the positions add what is kept of a position: a row of its gradient, and a few numbers."""
    monkeypatch.setitem(module.CHUNK, "cpu", 2**16)
    width, tokens, peaks = 8, 4000, []
    for positions in (500, 2000):
        inputs = case(positions, tokens, width, dtype)
        with LiveBytes(inputs) as live:
            before = live.now
            linear_cross_entropy(*inputs, -100).backward()
        peaks.append(live.peak - before)
    assert peaks[1] - peaks[0] < 1500 * (3 * width * 4 + 64)
    assert peaks[1] < 2000 * tokens * dtype.itemsize / 4


def test_evaluation_computes_no_gradient() -> None:
    hidden, weight, targets = case(50, 4000, 8)
    with torch.no_grad(), LiveBytes([hidden, weight, targets]) as live:
        before = live.now
        linear_cross_entropy(hidden, weight, targets, -100)
    assert live.peak - before < 2 * 50 * 4000 * 4 + weight.nbytes
