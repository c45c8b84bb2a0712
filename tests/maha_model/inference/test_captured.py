"""Steps as CUDA graphs, recorded and run again without a GPU (recorded_graph.py), against the full forward."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from maha_model import DecodingState
from maha_model.inference.compiled import CompiledSteps
from maha_model.inference.decoding import StreamingState
from tests.maha_model.inference.recorded_graph import RecordedGraph, Recording
from tests.maha_model.inference.test_compiled import difference, one_layer
from tests.maha_model.test_causality import VOCABULARY, build

DESCENT: dict[str, Any] = {"descent": 2, "query": "fine", "positions": "token", "span": 3}
MODELS: dict[str, dict[str, Any]] = {
    "spans": {"span": 4, "gating": True, "num_scales": 3},
    "fine queries": {"span": 5, "query": "fine", "num_scales": 2},
    "descent": DESCENT | {"num_scales": 3},
    "descent by taps": DESCENT | {"num_scales": 2, "key_summary": "taps", "descent_groups": 1},
    "descent by an index": DESCENT | {"num_scales": 2, "choice": "index", "index_dim": 4},
    "local context": {"span": 4, "num_scales": 2, "dilation": 2},
    "longformer": {"attention": "longformer", "span": 4},
    "standard": {"attention": "standard"},
}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What decoding runs on a GPU, in Triton's interpreter; nothing is compiled, and no capture may fail unseen."""
    pytest.importorskip("triton")
    for module in ("inference.decoding", "kernels.descent.newest", "kernels.span.operator"):
        monkeypatch.setattr(f"maha_model.{module}.device_kind", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(CompiledSteps, "run", lambda self, step, state, new, *_: step(state, new))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decoding")
        warnings.filterwarnings("ignore", "span: flash attention has no kernels for torch.float64")
        yield


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """The graphs that were run, in this order."""
    seen: list[RecordedGraph] = []
    replay = RecordedGraph.replay
    monkeypatch.setattr(RecordedGraph, "replay", lambda graph: (seen.append(graph), replay(graph)))
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_captured_steps_give_the_logits_of_the_full_forward(name: str, replays: list[RecordedGraph]) -> None:
    """Also after a growing cache has been doubled, for 64 tokens, of a copy of the state, and of other rows of it."""
    model, ids = one_layer(**MODELS[name]), torch.randint(VOCABULARY, (2, 84))
    prompt, copied_at, end = (61, 67, 70) if "descent" in name else (40, 60, 80)  # the interpreter takes its time
    state = DecodingState(model, 2, compile=True)
    state.prefill(ids[:, :prompt])
    assert difference(state, ids[:, :copied_at]) <= 1e-10
    others = copy.deepcopy(state)
    assert difference(others, ids[:, :end]) <= 1e-10
    before = len(replays)
    assert difference(state, ids[:, :end]) <= 1e-10
    config, grows = model.config, "descent" in name or name == "standard"
    kinds = config.num_scales if config.attention == "maha" else 1
    assert before >= 2 * (end - copied_at) - 2 * kinds * (1 + grows)  # all but the first of each kind, of every size
    state.select(torch.tensor([1]))  # which has graphs
    assert difference(state, ids[[1], : end + 4]) <= 1e-10


def test_a_step_with_gradients_is_not_captured(replays: list[RecordedGraph]) -> None:
    model = build(0, **MODELS["longformer"])
    transformer, like = model.transformer, torch.zeros(1, 0, dtype=torch.float64)
    inputs = torch.randn(1, 20, model.config.d_model, dtype=torch.float64).split(1, 1)
    found = []
    for enabled in (True, False):
        state = StreamingState(transformer.blocks, transformer.norm, model.config, like, compile=True)
        with torch.set_grad_enabled(enabled):
            outputs = [state.advance(x_B1D.clone()).detach() for x_B1D in inputs[:10]]
        with torch.inference_mode(mode=not enabled), torch.set_grad_enabled(enabled):  # the same graphs serve both
            outputs += [state.advance(x_B1D.clone()).detach() for x_B1D in inputs[10:]]
        assert len(replays) == (0 if enabled else 19)
        found.append(torch.cat(outputs))
    torch.testing.assert_close(*found)


def test_graphs_made_in_inference_mode_serve_outside_of_it(replays: list[RecordedGraph]) -> None:
    model = build(0, **MODELS["longformer"])
    transformer, like = model.transformer, torch.zeros(1, 0, dtype=torch.float64)
    state = StreamingState(transformer.blocks, transformer.norm, model.config, like, compile=True)
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            for _ in range(4):
                state.advance(torch.randn(1, 1, model.config.d_model, dtype=torch.float64))
    assert len(replays) == 7


def test_a_step_that_cannot_be_captured_goes_on_as_it_is_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, replays: list[RecordedGraph]
) -> None:
    monkeypatch.setattr("maha_model.kernels.dispatch._warned", set())
    monkeypatch.setattr("maha_model.kernels.span.operator.device_kind", lambda _: "cpu")  # reads an index back
    model, ids = build(0, **MODELS["standard"]), torch.randint(VOCABULARY, (2, 30))
    state = DecodingState(model, 2, compile=True)
    tried, streams = [], []
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **options: tried.append(1) or Recording(*args, **options))
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    with pytest.warns(RuntimeWarning, match=r"could not be captured as a CUDA graph \(operation not permitted"):
        assert difference(state, ids) <= 1e-10
    assert not replays
    assert len(tried) == 1
    assert streams == ["the stream before"]
