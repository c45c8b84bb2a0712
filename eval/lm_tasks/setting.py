"""What a task is given as metadata, and the model's tokenizer and context, which its documents have to fit."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from data_pipeline import UserError

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
"""Names that configurations of `transformers` have for the longest sequence."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Metadata of the tasks that search in a text; lm-eval adds the model's arguments, and those of the YAML file.

    Raises:
        UserError: if a value cannot work.
    """

    data: str
    """A prepared data set, or a text, JSON or parquet file: the text around."""
    split: str = "test"
    """Of a data set."""
    lengths: tuple[int, ...]
    """Tokens that a document has at most, its answer included. Default: the model's context."""
    documents: int = 100
    """Of each length."""
    choices: int = 4
    """Answers to choose from: needles or chains of a document, passages that could go on."""
    hops: int = 1
    """Of `maha_variables`: assignments of a chain after its first."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("split", self.split)
        for name, least in (("documents", 1), ("choices", 2), ("hops", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(f"metadata {name} is {value!r}; give a number of at least {least}")

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> "Setting":
        """From lm-eval's metadata, in which there may be more. What is nearly one of these names is a mistake."""
        check_name("data", metadata.get("data"))
        if not metadata.get("data"):
            raise UserError("no text to search in; give --metadata data=PATH, a prepared data set or a text file")
        known = {field.name for field in fields(cls)}
        for name in metadata.keys() - known:
            if near := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
                raise UserError(f"metadata has no {name!r}; did you mean {near[0]}?")
        given = {name: value for name, value in metadata.items() if name in known and name != "lengths"}
        return cls(**given, lengths=_lengths(metadata))


def _lengths(metadata: dict[str, Any]) -> tuple[int, ...]:
    given, context = metadata.get("lengths"), _context(metadata)
    lengths: list[Any] | tuple[Any, ...]
    lengths = [context] if given is None else given if isinstance(given, list | tuple) else [given]
    if not lengths or not all(type(length) is int and length >= 1 for length in lengths):
        raise UserError(f"metadata lengths is {given!r}; give numbers of tokens, such as lengths=[512,2048]")
    for length in lengths:
        if context is not None and length > context:
            raise UserError(
                f"a length of {length} is more than the model's context of {context}; give others, as in --metadata "
                f"lengths=[{context}], or a longer context, --model_args max_length={length}"
            )
    return tuple(lengths)


def _context(metadata: dict[str, Any]) -> int | None:
    """Tokens of the model's longest sequence; None if it is not known, and lengths are given."""
    if longest := metadata.get("max_length"):
        if type(longest) is not int or longest < 1:
            raise UserError(f"max_length is {longest!r}; give a number of tokens, such as --model_args max_length=2048")
        return longest
    if "pretrained" in metadata:
        from transformers import AutoConfig

        config = _loaded(
            AutoConfig, "configuration", metadata["pretrained"], metadata, "give --model_args max_length=N"
        )
        found = next((value for name in _CONTEXT if (value := getattr(config, name, None))), None)
        if found:
            return int(found)
    if metadata.get("lengths") is None:
        raise UserError("the model's context is not known; give --metadata lengths=[512,2048]")
    return None


def token_count(metadata: dict[str, Any]) -> Callable[[str], int]:
    """How many tokens a text has for the model, its beginning-of-sequence token included.

    Raises:
        UserError: if the model is behind an interface, so that its tokenizer has to be named, or none has that name.
    """
    from transformers import AutoTokenizer

    check_name("tokenizer", metadata.get("tokenizer"))
    name, mend = metadata.get("tokenizer") or metadata.get("pretrained"), "give --metadata tokenizer=NAME"
    if not name:
        raise UserError(f"the model's tokenizer is not known; {mend}")
    tokenizer = _loaded(
        AutoTokenizer, "tokenizer", name, metadata, f"{mend}, a folder that holds one or a model of the hub"
    )
    return lambda text: 1 + len(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_name(key: str, value: object) -> None:
    """Raises UserError if the metadata `key` is no text: lm-eval reads a name such as 2024 or True as a value."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"metadata {key} is {value!r}, which is no name; give a name, or a path that begins with ./")


def _loaded(kind: Any, what: str, name: object, metadata: dict[str, Any], mend: str) -> Any:
    """What `transformers` finds by a name: in a folder, in its cache or on the hub."""
    try:
        return kind.from_pretrained(name, trust_remote_code=bool(metadata.get("trust_remote_code", False)))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{name} has no {what} that can be loaded; {mend} ({' '.join(str(error).split())})") from error
