"""Documents of the tasks that search in a text; the answers to choose from all stand in it, one of them is right.

- `needle`: sentences "The word of KEY is VALUE." at any depth; at the end "The word of KEY is". After Kamradt's needle
  in a haystack and RULER (Hsieh et al. 2024, arXiv 2404.06654).
- `induction`: at the end a passage begins again; its next words are among other words of the document.
- `variables`: chains "Let A be VALUE.", "Let B be A."; at the end "Then B is". An example stands in front. After RULER.
- `copying`: sentences "Remember the word WORD." at any depth; at the end half of the words are listed in their order,
  and the next one is searched for. After selective copying (Jing et al. 2019, arXiv 1706.02761).
- `multiquery`: sentences "The word of KEY is VALUE." together at the begin; a third of them come again, anywhere in
  the text after it, and at the end one of the others begins. After multi-query associative recall (Arora et al. 2023,
  arXiv 2312.04927), whose queries too come one after the other, their answers shown.

Keys, values and variables are words of the text itself, so that any tokenizer has them, and no answer is likely by
itself.
"""

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from data_pipeline import UserError
from eval.lm_tasks.haystack import Haystack, hide
from eval.lm_tasks.setting import Setting, token_count

_CUE, _ANSWER = 16, 4
"""Words of a passage that begins again, and of what is to follow."""


class Document(NamedTuple):
    """A text and what could follow; the fields are those of lm-eval's data set."""

    text: str
    choices: list[str]
    """Each with the white space before it."""
    label: int
    """Index of the right one."""
    length: int
    """Tokens that it has at most, with the longest choice."""


Make = Callable[[Sequence[str]], tuple[str, list[str]]]
"""From the words around to the text and the choices, the right one first."""


def needle(**metadata: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_needle`."""
    return _data(metadata, _needle)


def induction(**metadata: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_induction`."""
    return _data(metadata, _induction)


def variables(**metadata: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_variables`."""
    return _data(metadata, _variables)


def copying(**metadata: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_copying`."""
    return _data(metadata, _copying)


def multiquery(**metadata: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_multiquery`."""
    return _data(metadata, _multiquery)


def results(doc: dict[str, Any], found: list[tuple[float, bool]]) -> dict[str, float]:
    """Scores of a document from the log-likelihood of every choice, and whether each of its tokens is the likeliest.

    `acc`: whether the right choice is the likeliest; `prob`: its probability among the choices; `greedy`: whether the
    model would write it. `acc_N` and `prob_N` are of the documents of N tokens.
    """
    label, length = doc["label"], doc["length"]
    likelihoods = [likelihood for likelihood, _ in found]
    best = max(likelihoods)
    prob = math.exp(likelihoods[label] - best) / sum(math.exp(each - best) for each in likelihoods)
    acc = float(likelihoods.index(best) == label)
    return {"acc": acc, "prob": prob, "greedy": float(found[label][1]), f"acc_{length}": acc, f"prob_{length}": prob}


def _data(metadata: dict[str, Any], maker: Callable[[random.Random, Setting, Haystack], Make]) -> dict[str, Any]:
    from datasets import Dataset

    setting, tokens = Setting.of(metadata), token_count(metadata)
    haystack = Haystack.read(setting.data, setting.split)
    rows = []
    for length in setting.lengths:
        for number in range(setting.documents):
            rng = random.Random(f"{setting.seed}/{length}/{number}")
            rows.append(_fitted(rng, maker(rng, setting, haystack), haystack.words, length, tokens)._asdict())
    return {"test": Dataset.from_list(rows)}


def _fitted(rng: random.Random, make: Make, words: list[str], length: int, tokens: Callable[[str], int]) -> Document:
    """As many of the words around, from a random place on, as have room in `length` tokens."""
    count = min(length, len(words))  # a word has a token at least
    place = rng.random()
    while count > 0:
        start = int(place * (len(words) - count + 1))
        text, choices = make(words[start : start + count])
        found = max(tokens(text + choice) for choice in choices)
        if found <= length:
            if count == len(words):
                break
            order = rng.sample(range(len(choices)), len(choices))
            return Document(text, [choices[i] for i in order], order.index(0), length)
        count -= max(1, count * (found - length) // found)
    if count:
        raise UserError(f"the text around has fewer than {length} tokens; give a longer one, or smaller lengths")
    raise UserError(f"the text around has no room in {length} tokens; give greater ones, --metadata lengths=[...]")


def _needle(rng: random.Random, setting: Setting, haystack: Haystack) -> Make:
    names = haystack.draw_names(rng, 2 * setting.choices)
    keys, values = names[: setting.choices], names[setting.choices :]
    sentences = [f" The word of {key} is {value}." for key, value in zip(keys, values, strict=True)]
    depths = [rng.random() for _ in sentences]

    def make(words: Sequence[str]) -> tuple[str, list[str]]:
        text = hide(words, sentences, depths)
        return f"{text} The word of {keys[0]} is", [f" {value}" for value in values]

    return make


def _induction(rng: random.Random, setting: Setting, haystack: Haystack) -> Make:
    places = [rng.random() for _ in range(8 * setting.choices)]

    def make(words: Sequence[str]) -> tuple[str, list[str]]:
        last = len(words) - _CUE - _ANSWER
        if last < 0:
            raise UserError(
                f"a passage of {_CUE + _ANSWER} words has no room; give --metadata lengths=[...] of more tokens"
            )
        starts = [int(place * (last + 1)) for place in places]
        following = ("".join(words[start + _CUE : start + _CUE + _ANSWER]) for start in starts)
        choices = list(dict.fromkeys(following))[: setting.choices]
        if len(choices) < setting.choices:
            raise UserError(f"a passage has no {setting.choices} different ways to go on; give longer or other text")
        cue = "".join(words[starts[0] : starts[0] + _CUE])
        return f"{''.join(words).lstrip()}\n{cue.lstrip()}", choices

    return make


def _variables(rng: random.Random, setting: Setting, haystack: Haystack) -> Make:
    each = setting.hops + 2  # the value, and the variables
    names = haystack.draw_names(rng, each * (setting.choices + 1))
    example, *chains = (names[i : i + each] for i in range(0, len(names), each))
    sentences, depths = [], []
    for chain in chains:
        sentences += _assignments(chain)
        depths += sorted(rng.random() for _ in range(each - 1))

    def make(words: Sequence[str]) -> tuple[str, list[str]]:
        shown = "".join(_assignments(example)).lstrip() + f" Then {example[-1]} is {example[0]}.\n"
        text = shown + hide(words, sentences, depths)
        return f"{text} Then {chains[0][-1]} is", [f" {chain[0]}" for chain in chains]

    return make


def _copying(rng: random.Random, setting: Setting, haystack: Haystack) -> Make:
    around = setting.choices - 1
    copied = haystack.draw_names(rng, 2 * around + 1)
    sentences = [f" Remember the word {word}." for word in copied]
    depths = sorted(rng.random() for _ in sentences)
    listed, right, later = copied[:around], copied[around], copied[around + 1 :]
    # As many of either side as of the other over all documents: where a choice stands in the text tells nothing.
    before = rng.randrange(setting.choices)
    choices = [right, *rng.sample(listed, before), *rng.sample(later, around - before)]

    def make(words: Sequence[str]) -> tuple[str, list[str]]:
        text = hide(words, sentences, depths)
        return f"{text} The words to remember are, in their order: {', '.join(listed)},", [f" {x}" for x in choices]

    return make


def _multiquery(rng: random.Random, setting: Setting, haystack: Haystack) -> Make:
    count = setting.choices + setting.choices // 2
    names = haystack.draw_names(rng, 2 * count)
    keys, values = names[:count], names[count:]
    sentences = [f" The word of {key} is {value}." for key, value in zip(keys, values, strict=True)]
    pairs = "".join(rng.sample(sentences, len(sentences))).lstrip()
    # Choices are the values that have not come again: all stand in the document once.
    queried, choices = sentences[setting.choices :], values[: setting.choices]
    depths = [rng.random() for _ in queried]

    def make(words: Sequence[str]) -> tuple[str, list[str]]:
        return f"{pairs}\n{hide(words, queried, depths)} The word of {keys[0]} is", [f" {value}" for value in choices]

    return make


def _assignments(chain: list[str]) -> list[str]:
    return [f" Let {name} be {source}." for source, name in pairwise(chain)]
