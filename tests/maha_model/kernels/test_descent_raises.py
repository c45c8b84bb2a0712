"""What is added to the scores of a chosen token's children."""

import torch

from maha_model.kernels.descent import Geometry, attend_level, descend
from tests.maha_model.kernels.descent_oracle import Case


def test_scores_are_raised_by_the_log_share_and_a_number() -> None:
    case = Case(90, 0, 3, 3, 5, 5, 4, 2, 2, 4, 4, seed=1, biased=True, bounds=False, exact=False)
    q, scales = case.inputs(torch.float64)
    keys, values = zip(*scales, strict=True)
    sizes = case.ratio, (case.span, case.coarse_span), case.top, case.groups
    none, zero, share, number = (
        descend(q, keys, values, x if x is None else torch.tensor([x, x]).double().T, *sizes).outputs
        for x in (None, [0, 0], [1, 0], [0, 1])
    )
    assert all(torch.equal(a, b) for a, b in zip(none, zero, strict=True))
    assert not torch.equal(none[0], share[0])
    assert not torch.equal(none[0], number[0])
    # raised beyond all others, the children of the chosen are all that is seen
    geometry = Geometry(case.ratio, case.ratio, case.coarse_span, case.span, case.top, case.groups)
    far = descend(q, keys[:2], values[:2], torch.tensor([[0.0], [100.0]]).double(), *sizes).outputs[0]
    chosen = attend_level(q, keys[1], values[1], None, None, geometry)[2]
    tokens = (chosen[..., None] * case.ratio + torch.arange(case.ratio)).flatten(-2)  # every head chooses alone
    score = torch.einsum("bhmd,bhnd->bhmn", q, keys[0]) * q.shape[3] ** -0.5
    seen = torch.zeros_like(score, dtype=torch.bool)
    late = slice(case.M - 20, None)  # where there are as many to choose as are chosen
    seen[:, :, late] = seen[:, :, late].scatter(-1, tokens[:, :, late].long(), value=True)
    at = torch.arange(case.M)
    seen &= at < at[:, None] + 1 - case.span  # near tokens are not raised
    weight = score[:, :, late].masked_fill(~seen[:, :, late], -torch.inf).softmax(-1)
    torch.testing.assert_close(far[:, :, late], weight @ values[0])
