"""What a task is given as metadata, and the model's tokenizer and context, which its documents have to fit."""

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
        for name, least in (("documents", 1), ("choices", 2), ("hops", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"metadata {name} is {value!r}; give a number of at least {least}")

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> "Setting":
        """From lm-eval's metadata, in which there may be more."""
        if not metadata.get("data"):
            raise UserError("no text to search in; give --metadata data=PATH, a prepared data set or a text file")
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in metadata.items() if name in known and name != "lengths"}
        return cls(**given, lengths=_lengths(metadata))


def _lengths(metadata: dict[str, Any]) -> tuple[int, ...]:
    given, context = metadata.get("lengths"), _context(metadata)
    lengths = [context] if given is None else given if isinstance(given, list | tuple) else [given]
    for length in lengths:
        if not isinstance(length, int) or length < 1:
            raise UserError(f"metadata lengths is {given!r}; give numbers of tokens, such as lengths=[512,2048]")
        if context is not None and length > context:
            raise UserError(
                f"a length of {length} is more than the model's context of {context}; give others, as in --metadata "
                f"lengths=[{context}], or a longer context, --model_args max_length={length}"
            )
    return tuple(lengths)


def _context(metadata: dict[str, Any]) -> int | None:
    """Tokens of the model's longest sequence; None if it is not known, and lengths are given."""
    if metadata.get("max_length"):
        return int(metadata["max_length"])
    if "pretrained" in metadata:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(metadata["pretrained"], trust_remote_code=_trusted(metadata))
        found = next((value for name in _CONTEXT if (value := getattr(config, name, None))), None)
        if found:
            return int(found)
    if metadata.get("lengths") is None:
        raise UserError("the model's context is not known; give --metadata lengths=[512,2048]")
    return None


def token_count(metadata: dict[str, Any]) -> Callable[[str], int]:
    """How many tokens a text has for the model, its beginning-of-sequence token included.

    Raises:
        UserError: if the model is behind an interface, so that its tokenizer has to be named.
    """
    from transformers import AutoTokenizer

    name = metadata.get("tokenizer") or metadata.get("pretrained")
    if not name:
        raise UserError("the model's tokenizer is not known; give --metadata tokenizer=NAME")
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=_trusted(metadata))
    return lambda text: 1 + len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _trusted(metadata: dict[str, Any]) -> bool:
    return bool(metadata.get("trust_remote_code", False))
