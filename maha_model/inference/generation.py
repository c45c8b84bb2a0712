"""Continuing a text: tokens from a decoding state, and their text in whole characters up to a stop string."""

import codecs
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from maha_model.inference.decoding import DecodingState
from maha_model.inference.sampling import Sampling
from maha_model.parallel import ContextSplit
from maha_model.transformer import CausalLM


class DocumentTokenizer(Protocol):
    """A tokenizer whose documents begin with `bos_id`; in training that token also ends the one before."""

    @property
    def bos_id(self) -> int:
        """The beginning-of-sequence token."""

    @property
    def eos_id(self) -> int:
        """The end-of-sequence token; -1 if there is none."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without `bos_id`."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token, of which one may hold a part of a character."""


class StopStrings:
    """Passes text on up to the first stop string, holding back an end that may become one."""

    def __init__(self, stops: list[str]) -> None:
        self.stops = stops
        self.held = ""
        self.found: str | None = None
        """The stop string met, after which everything is dropped."""

    def push(self, text: str) -> str:
        """Append text; the part that cannot become a stop string any more."""
        if self.found is not None:
            return ""
        self.held += text
        met = [(at, -len(stop), stop) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if met:
            at, _, self.found = min(met)
            return self._release(at)
        starts = (stop[:length] for stop in self.stops for length in range(1, len(stop)))
        return self._release(len(self.held) - max((len(s) for s in starts if self.held.endswith(s)), default=0))

    def flush(self) -> str:
        """The text held back, where no more comes."""
        return "" if self.found is not None else self._release(len(self.held))

    def _release(self, count: int) -> str:
        passed, self.held = self.held[:count], self.held[count:]
        return passed


def sample_tokens(
    model: CausalLM, prompt: list[int], sampling: Sampling, seed: int, ends: tuple[int, ...], compile: bool = False,
    split: ContextSplit | None = None,
) -> Iterator[int]:  # fmt: skip
    """Tokens that follow the prompt, without end or up to one of `ends`, which is not given.

    With a split every process computes its part of the prompt; the tokens follow on the last, on the others none.
    `compile`: see `StreamingState`.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.lm_head.weight.device
    state = DecodingState(model, compile=compile)
    model.context_parallel = split
    logits = state.prefill(torch.tensor([prompt if split is None else prompt[split.own]], device=device))
    model.context_parallel = None
    if split is not None and split.place < len(split.sizes) - 1:
        return
    while (token := int(sampling.draw(logits, generator))) not in ends:
        yield token
        logits = state.step(torch.tensor([token], device=device))


def generate(
    model: CausalLM, tokenizer: DocumentTokenizer, prompt: str, max_tokens: int, sampling: Sampling, seed: int,
    stops: list[str], write: Callable[[str], None], compile: bool = False,
    split: Callable[[int], ContextSplit | None] = lambda length: None,
) -> tuple[int, str]:  # fmt: skip
    """Pass the continuation of a document that begins with `prompt` to `write`, piece by piece, in whole characters.

    `split` has the part of a prompt of so many tokens that this process computes, see `sample_tokens`. `compile`: see
    `StreamingState`.

    Returns:
        Tokens drawn, and what ended the text: `length`, `document` or `stop`.
    """
    until_stop, characters = StopStrings(stops), codecs.getincrementaldecoder("utf-8")(errors="replace")
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    count, ended = 0, "length"
    if max_tokens > 0:
        ended = "document"
        ends = (tokenizer.bos_id, tokenizer.eos_id)
        for token in sample_tokens(model, ids, sampling, seed, ends, compile, split(len(ids))):
            count += 1
            write(until_stop.push(characters.decode(tokenizer.token_bytes(token))))
            if until_stop.found is not None or count == max_tokens:
                ended = "length"
                break
    write(until_stop.push(characters.decode(b"", final=True)))
    write(until_stop.flush())
    return count, "stop" if until_stop.found is not None else ended
