"""A rank's share: copied before training changes it, written whole or with an error, through errors that pass."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pretrain.checkpoint import Part, Piece, stage, whole_pieces, write_part
from pretrain.checkpoint import parts as module
from pretrain.checkpoint.parts import located

FILE = "rank-00000-of-00001.safetensors"


def share() -> list[Piece]:
    weights = {"a": torch.rand(3, 5), "b": torch.rand(7)}
    return whole_pieces(weights, {f"{name}.{key}": torch.rand_like(weights[name]) for name in weights
                                  for key in ("exp_avg", "exp_avg_sq")})  # fmt: skip


def test_a_staged_share_is_the_copy_of_that_moment_in_pieces_that_fit_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4 * 3 * 4)  # four elements of three kinds
    pieces = share()
    expected = {piece.name: [value.clone() for value in piece.values] for piece in pieces}
    staged = stage(pieces)
    for piece in pieces:
        for value in piece.values:
            value.zero_()
    assert [(piece.name, piece.start, len(piece.values[0])) for piece in staged] == [
        ("a", 0, 4), ("a", 4, 4), ("a", 8, 4), ("a", 12, 3), ("b", 0, 1), ("b", 1, 4), ("b", 5, 2)
    ]  # fmt: skip
    for name, values in expected.items():
        for kind, value in enumerate(values):
            assert torch.equal(torch.cat([piece.values[kind] for piece in staged if piece.name == name]), value)


def test_a_file_names_each_range_and_its_part_lists_them(tmp_path: Path) -> None:
    pieces = [Piece("a", (3, 5), 4, [torch.rand(6) for _ in range(3)])]
    part = write_part(tmp_path, FILE, pieces)
    stored = safetensors.torch.load_file(tmp_path / FILE)
    assert list(stored) == ["a.exp_avg@4", "a.exp_avg_sq@4", "a@4"]
    assert all(map(torch.equal, [stored["a@4"], stored["a.exp_avg@4"], stored["a.exp_avg_sq@4"]], pieces[0].values))
    assert (part.shapes, part.ranges) == ({"a": [3, 5]}, [("a", 4, 6)])
    assert Part(**part.to_dict()) == part


def test_a_rank_without_elements_has_a_file_too(tmp_path: Path) -> None:
    assert write_part(tmp_path, FILE, stage([])).bytes == (tmp_path / FILE).stat().st_size


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
@pytest.mark.parametrize("times", [1, 3, 4])
def test_an_error_that_passes_is_waited_out_and_one_that_stays_ends_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, times: int
) -> None:
    left = [OSError(number, os.strerror(number))] * times
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(left.pop()) if left else real(file))
    if times == 4:
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            write_part(tmp_path, FILE, stage(share()))
        assert raised.value.errno == number
        return
    part = write_part(tmp_path, FILE, stage(share()))
    assert len(safetensors.torch.load_file(tmp_path / FILE)) == 3 * len(part.ranges)
    assert capsys.readouterr().err.count(f"warning: {tmp_path / FILE}: {os.strerror(number)}; tried again") == times


def test_an_error_that_waiting_cannot_mend_is_raised_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_part(tmp_path / "nowhere", FILE, stage(share()))
    assert raised.value.filename == str(tmp_path / "nowhere" / FILE)
    assert capsys.readouterr().err == ""


def test_a_full_disk_has_the_systems_error_number(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        with pytest.raises(OSError, match="No space left") as raised:
            write_part(tmp_path, FILE, stage(whole_pieces({"a": torch.rand(9000)}, {})))
        assert raised.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def part(number: int, *ranges: tuple[str, int, int]) -> Part:
    return Part(f"rank-{number}", 0, "", {name: [2, 5] for name, _, _ in ranges}, list(ranges))


def test_parts_that_miss_an_element_or_have_it_twice_make_no_checkpoint() -> None:
    whole = located([part(0, ("a", 6, 4)), part(1, ("a", 0, 6))])
    assert whole == {"a": {"shape": [2, 5], "pieces": [[1, 0, 6], [0, 6, 4]]}}
    for parts, message in (
        ([part(0, ("a", 0, 6))], "have 6 of 10 elements"),
        ([part(0, ("a", 0, 6)), part(1, ("a", 7, 3))], "do not meet at element 7"),
        ([part(0, ("a", 0, 10)), part(1, ("a", 0, 10))], "do not meet at element 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            located(parts)
