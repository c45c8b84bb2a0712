"""Results as lines and as JSON."""

from pretrain.doctor.report import Finding, Result, faults_by_rank, faults_of, report_of, size_of

KEYS = ("speed", "launches")


def test_every_key_is_there_and_a_value_that_is_not_has_a_reason() -> None:
    found = Result.of("training", KEYS, Finding("fast", {"speed": 3.0}, {"launches": "no GPU"}), 1.0)
    assert found.status == "pass"
    assert found.to_dict()["values"] == {"speed": 3.0, "launches": None}
    assert found.to_dict()["reasons"] == {"launches": "no GPU"}
    failed = Result.without_values("training", KEYS, "fail", "RuntimeError: broken")
    assert failed.to_dict()["reasons"] == dict.fromkeys(KEYS, "RuntimeError: broken")


def test_a_fault_fails_with_its_values_kept_and_its_message_shown() -> None:
    found = Result.of("disk", KEYS, Finding("fine", {"speed": 1.0}, faults=["slow", "full"]), 2.0)
    assert found.status == "fail"
    assert found.values["speed"] == 1.0
    assert found.line().startswith("FAIL  disk ")
    assert found.line().endswith("2.0 s  slow; full")


def test_a_report_passes_without_a_failure_and_names_those_there_are() -> None:
    good = Result.of("disk", (), Finding("fine", {}), 0.0)
    skipped = Result.of("flash", (), Finding("one process", {}, applies=False), 0.0)
    bad = Result.without_values("kernels", (), "fail", "off")
    assert report_of([good, skipped], {"rank": 3}) == {
        "rank": 3, "pass": True, "checks": {"disk": good.to_dict(), "flash": skipped.to_dict()},
    }  # fmt: skip
    report = report_of([good, bad], {})
    assert not report["pass"]
    assert faults_of(report) == ["kernels: off"]


def test_a_rank_on_the_cpu_among_gpus_is_at_fault() -> None:
    good, bad = Result.of("disk", (), Finding("fine", {}), 0.0), Result.without_values("disk", (), "fail", "off")
    reports = {
        rank: report_of([result], {"device": device})
        for rank, (device, result) in enumerate([("cuda:0", good), ("cpu", good), ("cuda:1", bad)])
    }
    assert faults_by_rank(reports) == {1: ["computes on the CPU, other ranks on GPUs"], 2: ["disk: off"]}
    del reports[1], reports[2]
    assert faults_by_rank(reports) == {}


def test_sizes_are_readable() -> None:
    assert (size_of(3 * 2**30), size_of(2**20)) == ("3.00 GiB", "1.0 MiB")
