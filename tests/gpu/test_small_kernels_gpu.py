"""Rotation, convolution, spans and loss on a GPU against plain torch in float64 on the same inputs."""

import copy

import pytest
import torch

from maha_model import CausalLM, ModelConfig
from maha_model.attention import MAHAAttention
from maha_model.initialization import initialize
from maha_model.kernels import which
from maha_model.kernels.checks import check_index, check_pyramid, check_rotary_of_scales
from maha_model.kernels.cross_entropy import linear_cross_entropy
from maha_model.kernels.cross_entropy.reference import linear_cross_entropy as loss_by_definition
from maha_model.kernels.depthwise import depthwise_conv
from maha_model.kernels.depthwise import reference as depthwise
from maha_model.kernels.rotary import apply_rotary_to_all
from maha_model.kernels.rotary import reference as rotary
from maha_model.kernels.span import span_attention
from maha_model.kernels.span.reference import span_attention as span_by_definition

pytestmark = pytest.mark.gpu
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the largest value


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype).requires_grad_()


def assert_same(function, definition, inputs: list[torch.Tensor], tolerance: float) -> None:  # type: ignore[no-untyped-def]
    """Results and gradients."""
    found = []
    for compute, given in ((function, inputs), (definition, [x.detach().double().requires_grad_() for x in inputs])):
        result = compute(*given)
        results = [result] if isinstance(result, torch.Tensor) else list(result)
        total = torch.stack([(x.double() * (1 + i)).sin().sum() for i, x in enumerate(results)]).sum()
        grads = torch.autograd.grad(total, given)
        found.append([*results, *grads])
    for got, wanted in zip(*found, strict=True):
        # a span of one token has weights of 1 and no gradient but rounding
        assert (got.double() - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=0.05)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_rotation(dtype: torch.dtype) -> None:
    assert which("rotary", "cuda", dtype) == "triton"
    lines = [(0.0, 1.0), (1.5, 4.0)]
    tensors = [random(2, n, 3, 64, dtype=dtype).transpose(1, 2).detach().requires_grad_() for n in (517, 129)]
    assert_same(
        lambda *xs: apply_rotary_to_all(list(xs), lines, 1e4),
        lambda *xs: rotary.apply_rotary_to_all(list(xs), lines, 1e4),
        tensors, TOLERANCES[dtype],
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("taps", "stride", "dilation", "left"), [(4, 4, 1, 0), (3, 2, 1, 1), (3, 1, 2, 4)])
def test_convolution(dtype: torch.dtype, taps: int, stride: int, dilation: int, left: int) -> None:
    assert which("depthwise", "cuda", dtype) == "triton"
    inputs = [random(2, 1021, 200, dtype=dtype), random(taps, 200, dtype=dtype, seed=1)]
    geometry = stride, dilation, left
    assert_same(
        lambda x, taps: depthwise_conv(x, taps, *geometry),
        lambda x, taps: depthwise.depthwise_conv(x, taps, *geometry),
        inputs,
        TOLERANCES[dtype],
    )


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("span", [1, 37, 128])
def test_spans(dtype: torch.dtype, causal: bool, span: int) -> None:
    assert which("span", "cuda", dtype, warn=False) == ("flash" if dtype == torch.bfloat16 else "blocks")
    inputs = [random(2, 3, 517, 64, dtype=dtype, seed=i) for i in range(3)]
    assert_same(
        lambda q, k, v: span_attention(q, k, v, span, causal),
        lambda q, k, v: span_by_definition(q, k, v, span, causal),
        inputs,
        TOLERANCES[dtype],
    )


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_loss(dtype: torch.dtype) -> None:
    inputs = [random(700, 64, dtype=dtype), random(5000, 64, dtype=dtype, seed=1)]
    targets = torch.randint(5000, (700,), device="cuda")
    assert_same(
        lambda hidden, weight: linear_cross_entropy(hidden, weight, targets, -100),
        lambda hidden, weight: loss_by_definition(hidden, weight, targets, -100),
        inputs, TOLERANCES[dtype],
    )  # fmt: skip


def test_the_loss_under_autocast() -> None:
    inputs = [random(700, 64, dtype=torch.float32), random(5000, 64, dtype=torch.float32, seed=1)]
    inputs[0].data /= 8
    targets = torch.randint(5000, (700,), device="cuda")

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return linear_cross_entropy(hidden, weight, targets, -100)

    assert_same(
        loss, lambda hidden, weight: loss_by_definition(hidden, weight, targets, -100), inputs,
        TOLERANCES[torch.bfloat16],
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("check", [check_pyramid, check_rotary_of_scales])
def test_kernels_of_packed_scales(check, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    sizes = (517, 200, 4, 4, 0) if check is check_pyramid else (517, 64)
    agreement = check("cuda", dtype, *sizes)
    assert agreement.passed, agreement


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_attention_with_all_scales_packed_has_the_numbers_of_the_cpu(dtype: torch.dtype) -> None:
    """Whose form keeps the scales apart; utilities by torch's product with a float32 result are in here too."""
    config = ModelConfig.named("sample", span=16)
    torch.manual_seed(0)
    attention = MAHAAttention(config)
    initialize(attention, config)
    attention.to("cuda", dtype)
    exact = copy.deepcopy(attention).to("cpu", torch.float64)
    x = random(2, 517, config.d_model, dtype=dtype)
    y = x.detach().cpu().double().requires_grad_()
    found = []
    for module, given in ((attention, x), (exact, y)):
        out = module(given)[0]
        direction = y.detach().flip(1).to(out.device, out.dtype)
        found.append([out, *torch.autograd.grad(out, [given, *module.parameters()], direction)])
    for got, wanted in zip(*found, strict=True):
        limit = 3 * TOLERANCES[dtype] * wanted.abs().max().clamp(min=1e-3)
        assert (got.cpu().double() - wanted).abs().max() <= limit


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("N", "groups"), [(517, 2), (4097, 1)])
def test_an_index_chooses_the_best_blocks_and_learns(dtype: torch.dtype, N: int, groups: int) -> None:
    assert which("index", "cuda", dtype) == "triton"
    agreement = check_index("cuda", dtype, N, groups)
    assert agreement.passed, agreement


@pytest.mark.parametrize("options", [{}, {"attention": "standard"}])
def test_a_training_pass_can_be_captured_as_a_graph(options: dict) -> None:
    config = ModelConfig.named("sample", vocab_size=512, num_layers=2, **options)
    model = CausalLM(config).to("cuda", torch.bfloat16)
    ids = torch.randint(512, (2, 512), device="cuda")

    def step() -> torch.Tensor:
        loss = model(ids, ids).loss
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles kernels, makes the gradients
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    wanted = model(ids, ids).loss.item()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    graph.replay()
    assert loss.item() == pytest.approx(wanted, rel=1e-3)
