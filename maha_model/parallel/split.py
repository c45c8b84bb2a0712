"""Which tokens of a window each of the processes that share it has."""

from dataclasses import dataclass

import torch.distributed as dist

from maha_model.config import ConfigError

_groups: dict[str, dist.ProcessGroup] = {}


def register_group(group: dist.ProcessGroup) -> str:
    """The name under which `ContextSplit.group` means a process group; operators take names, not groups."""
    _groups[group.group_name] = group
    return group.group_name


def process_group(name: str) -> dist.ProcessGroup:
    """The group of that name, once registered."""
    return _groups[name]


def part_sizes(length: int, parts: int, unit: int) -> tuple[int, ...]:
    """Tokens of each of the parts of a window, as even as whole units allow; the last one has the rest.

    Args:
        length: N, tokens of the window.
        parts: P, processes that share it.
        unit: what every part but the last is a multiple of, `ModelConfig.context_unit`.

    Raises:
        ConfigError: if the window has fewer than P units; the last of them may be incomplete.
    """
    units = -(-length // unit)
    if units < parts:
        raise ConfigError(
            f"a context of {length} tokens cannot be shared by {parts} processes in parts of at least {unit} tokens; "
            f"give a longer context or at most {units} as context_parallel"
        )
    each, more = divmod(units, parts)
    sizes = [(each + (place < more)) * unit for place in range(parts)]
    sizes[-1] -= units * unit - length
    return tuple(sizes)


@dataclass(frozen=True)
class ContextSplit:
    """The part of a window that this process has, and those of the processes that share the window with it.

    At a scale whose tokens cover `factor` positions a part has floor(size / factor) rows: every size but the last is a
    multiple of the coarsest factor.
    """

    sizes: tuple[int, ...]
    """Tokens of every part, in the order of the window."""
    place: int
    """Which of them is this process's; its rank in the group."""
    group: str = ""
    """Name of the process group (`register_group`); without it shapes alone can be computed."""

    @property
    def start(self) -> int:
        """Position of this part's first token in the window."""
        return sum(self.sizes[: self.place])

    @property
    def own(self) -> slice:
        """This part's positions in the window."""
        return slice(self.start, self.start + self.sizes[self.place])
