"""Which implementation runs, and the one warning where a fast one is lost."""

import inspect
import sys
import warnings

import pytest
import torch
from torch._library import custom_ops as _custom_ops
from torch._subclasses.fake_tensor import FakeTensorMode

from maha_model.kernels import dispatch, fuse, which
from maha_model.kernels.descent import Geometry, attend_level, newest
from maha_model.kernels.fuse import Placement, Problem
from maha_model.kernels.fuse import operator as fuse_operator
from maha_model.kernels.span import span_attention, without_compiled_attention


@pytest.fixture(autouse=True)
def nothing_warned_of_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_warned", set())


@pytest.fixture
def no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("operator", ["span", "descent", "fuse", "qp"])
def test_a_cpu_with_a_compiler_runs_compiled_code(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert which(operator) == "cpu"
    monkeypatch.setenv("MAHA_NATIVE", "0")  # the user's choice: no warning
    assert which(operator) == ("blocks" if operator == "span" else "reference")


@pytest.mark.usefixtures("no_warnings")
def test_a_gpu_runs_triton_where_its_kernels_cover_the_case() -> None:
    pytest.importorskip("triton")
    assert which("fuse", "cuda", torch.bfloat16, num_scales=8) == "triton"
    assert which("span", "cuda", torch.bfloat16, width=128) == "flash"
    assert which("rotary", "cuda") == which("depthwise", "cuda") == "triton"
    assert which("qp", "cuda") == "reference"
    assert which("cross_entropy", "cpu") == "chunks"
    assert which("cross_entropy", "cuda") == "triton"


def test_scales_that_the_gpu_kernels_do_not_cover_are_warned_of_once() -> None:
    pytest.importorskip("triton")
    with pytest.warns(RuntimeWarning, match="fuse: .* more than 8 scales; plain torch"):
        assert which("fuse", "cuda", num_scales=9) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert which("fuse", "cuda", num_scales=9) == "reference"


def test_a_gpu_without_triton_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fuse, "triton", raising=False)
    monkeypatch.setitem(sys.modules, "maha_model.kernels.fuse.triton", None)
    with pytest.warns(RuntimeWarning, match="pip install triton"):
        assert which("fuse", "cuda") == "reference"


@pytest.mark.parametrize("operator", ["span", "descent", "fuse", "qp"])
def test_a_dtype_without_compiled_code_is_warned_of(operator: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"{operator}: float16 has no compiled code .* use one of float32"):
        assert which(operator, dtype=torch.float16) != "cpu"


def test_the_operators_warn_as_which_does() -> None:
    q = torch.randn(1, 1, 9, 4).half()
    with pytest.warns(RuntimeWarning, match="span: float16"):
        span_attention(q, q, q, 3)
    with pytest.warns(RuntimeWarning, match="descent: float16"):
        attend_level(q, q, q, None, None, Geometry(1, 2, 3, 3, 0, 1))
    with pytest.warns(RuntimeWarning, match="fuse: float16"):
        fuse.fuse([q], [Placement(0, 1)], 9, Problem("output", (0.1,), "box"))


@pytest.mark.usefixtures("no_warnings")
def test_tensors_without_data_lose_nothing() -> None:
    with FakeTensorMode():
        for device in ("cpu", "meta"):
            q = torch.empty(1, 1, 9, 4, dtype=torch.float16, device=device)
            span_attention(q, q, q, 3)
            attend_level(q, q, q, None, None, Geometry(1, 2, 3, 3, 0, 1))
            fuse.fuse([q], [Placement(0, 1)], 9, Problem("output", (0.1,), "box"))
    with without_compiled_attention():
        assert which("span") == "blocks"


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of span, descent, fuse, qp, cross_entropy"):
        which("attention")


def test_a_function_is_marked_as_torch_marks_one_whose_result_is_constant() -> None:
    def ours() -> bool:
        return True

    def theirs() -> bool:
        return True

    assert dispatch.constant_when_compiled(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(theirs)) != {}


def test_a_function_runs_with_the_gpu_of_its_first_tensor_as_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    def exchange(index: int) -> int:
        before, current[0] = current[0], index
        return before

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    seen = dispatch.on_its_gpu(lambda *_: current[0])

    class OnGPU(torch.Tensor):
        is_cuda, device = True, torch.device("cuda", 3)  # type: ignore[assignment]

        def get_device(self) -> int:
            return 3

    given = torch.Tensor._make_subclass(OnGPU, torch.zeros(2))
    assert (seen(given, 1), seen([given], 1), seen(torch.zeros(2))) == (3, 3, 0)
    assert current == [0]


def test_every_operator_of_triton_kernels_runs_on_the_gpu_of_its_tensors() -> None:
    """One that does not would write to another GPU's memory, where a model is not on the current one."""
    launching = ("triton", "kernel_module")
    names = {name for name in _custom_ops.OPDEFS if name.startswith("maha::")}
    assert "maha::fuse" in names
    for name in names:
        function = _custom_ops.OPDEFS[name]._init_fn
        if any(word in inspect.getsource(inspect.unwrap(function)) for word in launching):
            assert inspect.unwrap(function) is not function, name
    for function in (newest._descend_at, fuse_operator._fuse_forward):  # defined without custom_op
        assert inspect.unwrap(function) is not function
