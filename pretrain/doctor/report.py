"""Results of checks: a line of the table, and an entry of the JSON object that always has the same keys."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "skip"]
NAME_WIDTH = 36


def size_of(count: int) -> str:
    """Bytes for a reader, in GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"


@dataclass
class Finding:
    """What a check found."""

    summary: str
    """For the table."""
    values: dict[str, Any]
    """JSON-ready, by the check's keys; None where a value cannot be had here."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a value is None, by its key."""
    faults: list[str] = field(default_factory=list)
    """What is wrong; the check has passed without any."""
    applies: bool = True
    """Whether there was anything to check here."""


@dataclass(frozen=True)
class Result:
    """A check that has run, or why it has not."""

    name: str
    status: Status
    message: str
    seconds: float
    values: dict[str, Any]
    reasons: dict[str, str]
    hangs: bool = False
    """Whether it still runs: it was left behind at the time limit."""

    @classmethod
    def of(cls, name: str, keys: tuple[str, ...], finding: Finding, seconds: float) -> "Result":
        """From what a check found."""
        status: Status = "fail" if finding.faults else "pass" if finding.applies else "skip"
        message = "; ".join(finding.faults) or finding.summary
        values = {key: finding.values.get(key) for key in keys}
        reasons = {key: finding.reasons.get(key, message) for key, value in values.items() if value is None}
        return cls(name, status, message, seconds, values, reasons)

    @classmethod
    def without_values(
        cls, name: str, keys: tuple[str, ...], status: Status, message: str, seconds: float = 0.0
    ) -> "Result":
        """Of a check that did not run to its end."""
        return cls(name, status, message, seconds, dict.fromkeys(keys), dict.fromkeys(keys, message))

    def line(self) -> str:
        """A row of the table."""
        verdict = "FAIL" if self.status == "fail" else self.status
        return f"{verdict:4}  {self.name:{NAME_WIDTH}} {self.seconds:7.1f} s  {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": self.status,
            "message": self.message,
            "seconds": round(self.seconds, 3),
            "values": self.values,
            "reasons": self.reasons,
        }


def report_of(results: list[Result], place: dict[str, Any]) -> dict[str, Any]:
    """One rank's report, JSON-ready; `place` says which rank, host and device it is of."""
    passed = all(result.status != "fail" for result in results)
    return {**place, "pass": passed, "checks": {result.name: result.to_dict() for result in results}}


def faults_by_rank(reports: dict[int, dict[str, Any]]) -> dict[int, list[str]]:
    """Of the ranks that failed, or compute on the CPU while others have GPUs: what is wrong with each."""
    kinds = {rank: report["device"].partition(":")[0] for rank, report in reports.items()}
    faults = {rank: faults_of(report) for rank, report in reports.items()}
    if len(set(kinds.values())) > 1:
        for rank, kind in kinds.items():
            faults[rank] += ["computes on the CPU, other ranks on GPUs"] if kind == "cpu" else []
    return {rank: each for rank, each in faults.items() if each}


def faults_of(report: dict[str, Any]) -> list[str]:
    """The checks of a rank's report that failed, each with its message."""
    checks = report["checks"].items()
    return [f"{name}: {check['message']}" for name, check in checks if check["status"] == "fail"]
