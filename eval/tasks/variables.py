"""Variable tracking: chains of assignments, each from the variable before, and every variable's value queried.

An example of 16 tokens, a chain of 2 hops, variables as letters, the value as a digit, blanks as dots; below, the
targets:

    a 7 . . d a f d  d . . . f . a .
    . . . . . . . .  7 . . . 7 . 7 .

The assignments a = 7, d = a, f = d are spread over the first half in this order, those of several chains mixed. Every
hop is one more look-up. Source: RULER (Hsieh et al. 2024, arXiv 2404.06654), without its sentences around.
"""

from dataclasses import dataclass

import torch

from data_pipeline import UserError
from eval.tasks.task import Batch, check_least, choose


@dataclass(frozen=True, kw_only=True)
class VariablesTask:
    """The sequences of the task: ids 0 to variables - 1 are variables, the next `values` values, the last the blank.

    Raises:
        UserError: if the assignments or the queries have no room, or there are fewer variables than assignments.
    """

    length: int = 128
    """Tokens N of a sequence."""
    chains: int = 2
    """Chains of a sequence; every variable of each is queried once, in the second half."""
    hops: int = 2
    """Assignments of a chain after its first, which gives the value."""
    variables: int = 32
    values: int = 32

    def __post_init__(self) -> None:
        check_least(self, length=4, chains=1, hops=0, variables=1, values=1)
        if self._assignments > self.variables:
            raise UserError(
                f"chains {self.chains} of {self.hops} hops have more assignments than variables {self.variables}; "
                "give more variables"
            )
        if self._assignments > self.length // 4:
            raise UserError(
                f"chains {self.chains} of {self.hops} hops have no room in half of length {self.length}; give fewer "
                "chains, fewer hops or a greater length"
            )

    @property
    def _assignments(self) -> int:
        return self.chains * (self.hops + 1)

    @property
    def vocab_size(self) -> int:
        """Variables, values and the blank."""
        return self.variables + self.values + 1

    @property
    def chance(self) -> float:
        """One among all values."""
        return 1 / self.values

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored where a variable is queried; the evidence is the value, a chain's first token."""
        C, device = self.chains, generator.device
        variables_BCS = choose(size, self.variables, self._assignments, generator).unflatten(1, (C, -1))
        values_BC = torch.randint(
            self.variables, self.variables + self.values, (size, C), generator=generator, device=device
        )  # fmt: skip
        sources_BCS = torch.cat((values_BC[:, :, None], variables_BCS[:, :, :-1]), 2)
        places = choose(size, self.length // 4, self._assignments, generator)
        shown_BCS = 2 * places.unflatten(1, (C, -1)).sort(2).values
        queried_BK = self.length // 2 + 2 * choose(size, self.length // 4, self._assignments, generator)
        ids_BN = torch.full((size, self.length), self.vocab_size - 1, device=device)
        ids_BN.scatter_(1, shown_BCS.flatten(1), variables_BCS.flatten(1))
        ids_BN.scatter_(1, shown_BCS.flatten(1) + 1, sources_BCS.flatten(1))
        ids_BN.scatter_(1, queried_BK, variables_BCS.flatten(1))
        each = self.hops + 1
        roots_BK = shown_BCS[:, :, 0].repeat_interleave(each, 1) + 1
        return Batch(ids_BN, queried_BK, values_BC.repeat_interleave(each, 1), queried_BK - roots_BK)
