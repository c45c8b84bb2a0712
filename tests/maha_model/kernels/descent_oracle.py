"""Random scales of a descent, and what they are to give: a loop over single queries."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from maha_model.kernels.descent import Geometry
from maha_model.kernels.descent.reference import attend_level_reference


@dataclass(frozen=True)
class Case:
    """Shapes of a descent; M queries from position `start` on."""

    M: int
    start: int
    L: int
    ratio: int
    span: int
    coarse_span: int
    top: int
    heads: int
    groups: int
    dk: int
    d: int
    seed: int
    biased: bool
    """Shares of the chosen raise the scores of their children."""
    bounds: bool
    """Keys of coarse tokens are of twice the queries' width."""
    exact: bool
    """Small integers and a power of two as scale: scores are exact, and many are equal."""

    def geometry(self, level: int) -> Geometry:
        spans = (self.span, self.coarse_span)
        near, finer, top = spans[min(level, 1)], spans[min(max(level - 1, 0), 1)], self.top if level else 0
        return Geometry(self.ratio**level, self.ratio, near, finer, top, self.groups, self.start, self.biased)

    def levels(self) -> list[int]:
        """Coarsest first, those that have a token."""
        return [level for level in reversed(range(self.L)) if (self.start + self.M) // self.ratio**level]

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Queries, and keys and values by level."""
        generator = torch.Generator().manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            if self.exact:
                return torch.randint(-1, 2, shape, generator=generator).to(dtype)
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        q = random(2, self.heads, self.M, self.dk)
        tokens = [(self.start + self.M) // self.ratio**level for level in range(self.L)]
        wider = [2 if self.bounds and level else 1 for level in range(self.L)]
        return q, [
            (random(2, self.heads, n, times * self.dk), random(2, self.heads, n, self.d))
            for n, times in zip(tokens, wider, strict=True)
        ]


@st.composite
def cases(draw: st.DrawFn, most: int = 210, exact: bool | None = None) -> Case:
    exact = draw(st.booleans()) if exact is None else exact
    heads = draw(st.sampled_from([1, 2, 4]))
    spans = st.one_of(st.integers(1, 20), st.integers(1, 130))
    return Case(
        M=draw(st.one_of(st.integers(1, 12), st.integers(1, most))),
        start=draw(st.one_of(st.just(0), st.integers(0, 90))),
        L=draw(st.integers(1, 4)),
        ratio=draw(st.integers(2, 5)),
        span=draw(spans),
        coarse_span=draw(spans),
        top=draw(st.one_of(st.integers(1, 9), st.integers(1, 64))),
        heads=heads,
        groups=draw(st.sampled_from([g for g in (1, 2, 4) if g <= heads])),
        dk=draw(st.sampled_from([1, 4, 16, 64] if exact else [1, 3, 16, 20, 64])),
        d=draw(st.sampled_from([1, 7, 16, 72])),
        seed=draw(st.integers(0, 1000)),
        biased=draw(st.booleans()),
        bounds=draw(st.booleans()),
        exact=exact,
    )


Level = tuple[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Geometry], tuple[Tensor, ...]]


def walk(case: Case, dtype: torch.dtype) -> Iterator[Level]:
    """Every level's inputs, with the parents of the definition's own choice, and the definition's results."""
    q, scales = case.inputs(dtype)
    parents = bias = None
    for level in case.levels():
        inputs = (q, *scales[level], parents, bias, case.geometry(level))
        results = attend_level_reference(*inputs)
        yield inputs, results
        parents, bias = results[2], 0.7 * results[3] if case.biased else None


def product(q: Tensor, k: Tensor) -> float:
    """With bounds of twice the width each entry by the one that its sign selects."""
    return float(q @ (k if len(k) == len(q) else torch.where(q > 0, k[: len(q)], k[len(q) :])))


def attend_in_a_loop(
    q: Tensor, k: Tensor, v: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What operator.py says, query by query, in float64."""
    factor, ratio, span, finer_span, top, groups, start, shares = geometry
    (B, H, M, dk), n, together = q.shape, k.shape[2], q.shape[1] // groups
    out, log_sum = v.new_zeros(B, H, M, v.shape[3]), v.new_full((B, H, M), -math.inf)
    share = v.new_zeros(B, H, M, top if shares else 0)
    chosen = torch.full((B, groups, M, top), -1, dtype=torch.int32)
    for b, group, m in torch.cartesian_prod(torch.arange(B), torch.arange(groups), torch.arange(M)).tolist():
        position = start + m
        finished = [j for j in range(n) if factor * (j + 1) - 1 <= position]
        seen = dict.fromkeys(finished if parents is None else finished[-span:])  # token: number of its parent
        for number, parent in enumerate([] if parents is None else parents[b, group, m].tolist()):
            children = range(ratio * parent, ratio * parent + ratio) if parent >= 0 else ()
            seen.update({j: number for j in children if j in finished and j not in seen})
        merits: dict[int, float] = {}
        scores = []
        for h in range(group * together, (group + 1) * together):
            score = {
                j: product(q[b, h, m], k[b, h, j]) * dk**-0.5
                + (0.0 if number is None or bias is None else bias[b, h, m, number].item())
                for j, number in seen.items()
            }
            scores.append(score)
            if not seen:
                continue
            log_sum[b, h, m] = torch.tensor(list(score.values()), dtype=v.dtype).logsumexp(0)
            for j, s in score.items():
                out[b, h, m] += math.exp(s - log_sum[b, h, m].item()) * v[b, h, j]
                merit = s if together == 1 else s - log_sum[b, h, m].item()
                merits[j] = max(merits.get(j, -math.inf), merit)
        if not top:
            continue
        newest_finer = (position + 1) // (factor // ratio) - 1
        candidates = [j for j in seen if ratio * j <= newest_finer - finer_span]
        best = sorted(candidates, key=lambda j: (-merits[j], j))[:top]
        chosen[b, group, m, : len(best)] = torch.tensor(best, dtype=torch.int32)
        for h, score in zip(range(group * together, (group + 1) * together), scores, strict=True):
            if not shares:
                break
            logits = torch.tensor([score[j] for j in best], dtype=v.dtype)
            share[b, h, m, : len(best)] = logits.log_softmax(0)
    return out, log_sum, chosen, share
