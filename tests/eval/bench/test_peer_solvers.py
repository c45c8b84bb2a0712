"""The peers of the aggregation benchmark solve the same problems as our solver."""

import pytest
import torch

from eval.bench.aggregation import L, problems
from eval.bench.peer_solvers import peer_solvers
from maha_model.aggregation import solve_small_qp


def test_peers_find_the_same_weights() -> None:
    solvers = peer_solvers(L)
    if not solvers:
        pytest.skip("needs cvxpylayers or qpth (pip install '.[cvxpy]')")
    Q, p = (x.requires_grad_() for x in problems(8))
    for name, solve in solvers.items():
        torch.testing.assert_close(solve(Q, p), solve_small_qp(Q, p), rtol=0, atol=2e-3, msg=name)
