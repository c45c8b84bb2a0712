"""Who is likely at fault: what every rank has left, compared."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.diagnostics.record import Record

NAMED = 8
"""Ranks named in a line."""


@dataclass(frozen=True)
class Culprit:
    """The likely culprit, or none."""

    ranks: tuple[int, ...]
    """Empty where nothing singles a rank out."""
    hosts: tuple[str, ...]
    """Theirs, where known, each once."""
    why: str
    """One line."""
    host_at_fault: bool = False
    """Whether their hosts may be: a rank has left nothing, was out of reach or had an error of its device."""


def find_culprit(records: Sequence[Record]) -> Culprit:
    """The rank with an error of its own, else one that left nothing, was lost, is behind, or stands elsewhere.

    `records` are those of one fault, at least one.
    """
    for find in (_with_an_error, _without_a_record, _cut_off, _behind, _elsewhere, _silent):
        ranks, why = find(records)
        if ranks and len(ranks) < records[0].world_size:
            by_host = find in (_without_a_record, _cut_off) or any(
                record.rank in ranks and _has_device_error(record) for record in records
            )
            return Culprit(tuple(ranks), _hosts(records, ranks), f"{_named(records, ranks)} {why}", by_host)
    reason = next((it.reason for it in records if it.kind != "elsewhere"), records[0].reason)
    return Culprit((), (), f"no rank stands out: {reason}")


def _with_an_error(records: Sequence[Record]) -> tuple[list[int], str]:
    """Ranks that ended by an error of their own code, device or options."""
    found = [record for record in records if record.kind in ("error", "mistake")]
    return [record.rank for record in found], f"had an error of its own: {found[0].reason}" if found else ""


def _without_a_record(records: Sequence[Record]) -> tuple[list[int], str]:
    """Ranks that could write nothing; of several, those that the others had lost."""
    there, lost = {record.rank for record in records}, _lost(records)
    missing = [rank for rank in range(records[0].world_size) if rank not in there]
    return [rank for rank in missing if rank in lost] or missing, "left nothing: killed, or its machine is gone"


def _cut_off(records: Sequence[Record]) -> tuple[list[int], str]:
    """Ranks that were lost to the others and yet could write."""
    return sorted(_lost(records)), "was out of reach of the others but ran: look at its network"


def _behind(records: Sequence[Record]) -> tuple[list[int], str]:
    """Ranks that have begun fewer collectives than others of the same process group."""
    for group in sorted({group for record in records for group in record.counts}):
        counts = {record.rank: record.counts[group] for record in records if group in record.counts}
        last, first = min(counts.values()), max(counts.values())
        if last < first:
            return (
                [rank for rank, count in counts.items() if count == last],
                f"is behind: it has begun {last} collectives, others {first}",
            )
    return [], ""


def _elsewhere(records: Sequence[Record]) -> tuple[list[int], str]:
    """Ranks whose main thread is not where that of most ranks is."""
    records = [record for record in records if not _is_in_recorder(record)]
    places = Counter(_place(record) for record in records)
    if len(places) < 2:
        return [], ""
    usual, count = places.most_common(1)[0]
    if count * 2 <= len(records):
        return [], ""
    found = [record for record in records if _place(record) != usual]
    return [record.rank for record in found], f"is elsewhere: {found[0].at[0] if found[0].at else 'unknown'}"


def _silent(records: Sequence[Record]) -> tuple[list[int], str]:
    """The rank whose last heartbeat is the oldest, if it is much older than the others'."""
    silence = {
        int(rank): math.inf if spent is None else spent for record in records for rank, spent in record.silence.items()
    }
    if len(silence) < 2:
        return [], ""
    longest, second = sorted(silence.values(), reverse=True)[:2]
    if longest < 3 * second:
        return [], ""
    return [rank for rank, spent in silence.items() if spent == longest], f"gave no heartbeat for {longest:.0f} s"


def _lost(records: Sequence[Record]) -> set[int]:
    """The ranks lost to rank 0, which listens to all; else to others, which listen to rank 0."""
    of_main = {rank for record in records if record.rank == 0 for rank in record.lost}
    return of_main or {rank for record in records for rank in record.lost}


def _place(record: Record) -> str:
    return record.at[0].split(" in ")[-1] if record.at else ""


def _is_in_recorder(record: Record) -> bool:
    """Whether its main thread wrote the record, which hides where training was."""
    return any(place.startswith(("recorder.py:", "watchdog.py:")) for place in record.at)


def _has_device_error(record: Record) -> bool:
    """A failed assertion on a device is a fault of the code, not of the device."""
    return record.kind == "error" and "CUDA error" in record.reason and "device-side assert" not in record.reason


def _hosts(records: Sequence[Record], ranks: Sequence[int]) -> tuple[str, ...]:
    known = {rank: host for record in records for rank, host in record.hosts.items()}
    known |= {str(record.rank): record.host for record in records}
    return tuple(dict.fromkeys(known[str(rank)] for rank in ranks if str(rank) in known))


def _named(records: Sequence[Record], ranks: Sequence[int]) -> str:
    hosts = [_hosts(records, [rank]) for rank in ranks]
    names = [f"rank {rank} ({host[0] if host else 'host unknown'})" for rank, host in zip(ranks, hosts, strict=True)]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
