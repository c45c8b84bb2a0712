"""Python sources as documents: of installed packages and folders, found without an import, split by their paths."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import Manifest, read_documents
from data_pipeline.errors import UserError
from data_pipeline.prepare import prepare
from data_pipeline.sources import SPLITS, find_source
from data_pipeline.sources.python_code import LARGEST, split_of_path
from tests.conftest import Run, book

PACKAGES = "python:packaging,hypothesis"


def splits(source: str) -> dict[str, dict[str, str]]:
    """By split the texts by title, in their order."""
    found = find_source(source)
    return {split: {document.title: document.text for document in found.open(split)} for split in SPLITS}


def titles(source: str) -> list[str]:
    return [title for texts in splits(source).values() for title in texts]


def write_modules(folder: Path, count: int, **more: bytes) -> Path:
    """`count` different modules in two folders, and some other files by name."""
    for number in range(count):
        path = folder / ("inner" if number % 3 else ".") / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Module {number}."""\n{book(number, 60)}\n')
    for name, content in more.items():
        (folder / f"{name}.py").write_bytes(content)
    return folder


def test_every_source_file_of_a_package_is_one_document_in_one_split() -> None:
    import packaging
    import yaml

    parts = splits("python:packaging,yaml")
    files: dict[str, str] = {}
    for module in (packaging, yaml):
        folder = Path(module.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            files[path.relative_to(folder.parent).as_posix()] = path.read_bytes().decode()
    assert {title: text for part in parts.values() for title, text in part.items()} == files
    for part in parts.values():
        assert list(part) == [title for title in files if title in part]
    assert sum(map(len, parts.values())) == len(files)


def test_about_one_file_in_20_is_test_and_one_validation() -> None:
    chosen = [split_of_path(f"package/module_{number}.py") for number in range(4000)]
    assert all(180 <= chosen.count(split) <= 220 for split in ("test", "validation"))


def test_the_split_of_a_file_does_not_depend_on_other_files(tmp_path: Path) -> None:
    """Files whose text is unique: by name or version, no other package or file moves one to another split."""
    few = splits(PACKAGES)
    more = splits("python:pytest,hypothesis,packaging")
    for split in SPLITS:
        assert set(few[split]) <= set(more[split])
    folder = write_modules(tmp_path, 100)
    before = splits(f"python:{folder}")
    for title in list(before["train"])[::2]:
        (folder / title).unlink()
    (folder / next(iter(before["test"]))).write_text("another = 'text'\n")
    after = splits(f"python:{folder}")
    assert list(after["test"]) == list(before["test"])
    assert list(after["train"]) == list(before["train"])[1::2]


def test_nothing_is_imported() -> None:
    script = (
        "import sys; from data_pipeline.sources import find_source; "
        "[list(find_source('python:xdist,hypothesis,xml').open(s)) for s in ('train', 'test')]; "
        "print([m for m in ('xdist', 'hypothesis', 'xml.dom') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_names_of_distributions_modules_and_the_standard_library_are_understood() -> None:
    by_import, by_distribution = find_source("python:yaml,packaging"), find_source("python:packaging, pyyaml")
    yaml, packaging = (importlib.metadata.version(name) for name in ("PyYAML", "packaging"))
    assert by_import.name == f"python: packaging {packaging}, PyYAML {yaml}"
    assert by_distribution.name == f"python: PyYAML {yaml}, packaging {packaging}"  # its first package is _yaml
    assert {"yaml/nodes.py", "_yaml/__init__.py"} <= set(titles("python:PyYAML,packaging"))
    assert "_yaml/__init__.py" not in titles("python:yaml,packaging")
    found = find_source("python:typing_extensions,email,hypothesis")
    assert f"email of Python {platform.python_version()}" in found.name
    assert {"typing_extensions.py", "email/message.py"} <= set(titles("python:typing_extensions,email,hypothesis"))


def test_the_order_of_names_changes_nothing_and_a_name_given_twice_counts_once() -> None:
    first, second = find_source("python:hypothesis,packaging"), find_source("python:packaging,hypothesis,packaging")
    assert first.fingerprint == second.fingerprint
    assert first.name == second.name
    assert list(first.open("train")) == list(second.open("train"))


def test_a_folder_of_sources_can_move_and_stands_beside_packages(tmp_path: Path) -> None:
    write_modules(tmp_path / "a", 60)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    source, moved = find_source(f"python:{tmp_path / 'a'}"), tmp_path / "moved"
    (tmp_path / "a" / "notes.txt").write_text("not read")
    assert source.fingerprint == find_source(f"python:{tmp_path / 'b'}").fingerprint
    assert set(titles(f"python:{tmp_path / 'a'}")) == {
        path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.py")
    }
    (tmp_path / "a").rename(moved)
    assert find_source(f"python:{moved}").fingerprint == source.fingerprint
    (moved / "module_0.py").write_text("changed = True\n")
    assert find_source(f"python:{moved}").fingerprint != source.fingerprint
    both = list(find_source(f"python:{moved},packaging").open("train"))
    assert [document.title.startswith("packaging/") for document in both] == sorted(
        (document.title.startswith("packaging/") for document in both), reverse=True
    )


def test_another_version_is_another_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip installs it, with a second version that differs in nothing else."""
    site = tmp_path / "site"
    write_modules(site / "somepackage", 60, __init__=b"")
    for version in ("1.0", "1.1"):
        metadata = site / f"somepackage-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: somepackage\nVersion: {version}\n")
        (metadata / "top_level.txt").write_text("somepackage\n")
    monkeypatch.syspath_prepend(str(site))
    (site / "somepackage-1.1.dist-info").rename(tmp_path / "later")
    manifest = prepare(find_source("python:somepackage"), tmp_path / "set", 400, workers=1, shard_tokens=10**6)
    assert manifest.request["source"] == "python: somepackage 1.0"
    (site / "somepackage-1.0.dist-info").rename(tmp_path / "earlier")
    (tmp_path / "later").rename(site / "somepackage-1.1.dist-info")
    importlib.invalidate_caches()
    source = find_source("python:somepackage")
    assert source.name == "python: somepackage 1.1"
    with pytest.raises(UserError, match="holds another data set"):
        prepare(source, tmp_path / "set", 400, workers=1, shard_tokens=10**6)


def test_what_of_a_folder_is_not_read_is_named_and_case_is_no_matter(tmp_path: Path) -> None:
    folder = write_modules(tmp_path / "code", 60)
    for name in ("Big.PY", "n.pyw", "t.pyi", "data.csv", ".git/objects", "__pycache__/t.pyc", ".hooks/run.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"name = {name!r}\n")
    (folder / "link").symlink_to(tmp_path / "nowhere")
    source = f"python:{folder}"
    assert {"Big.PY", ".hooks/run.py"} <= set(titles(source))
    assert len(titles(source)) == 62
    assert find_source(source).notes == (
        f"not read of {source}: data.csv, n.pyw, t.pyi (not .py); link (a link to nothing)",
    )
    assert find_source(PACKAGES).notes == ()  # a package has libraries and stubs that nobody takes for its sources


def test_files_that_cannot_be_read_are_named_and_copies_are_in_one_split(tmp_path: Path, run_command: Run) -> None:
    copied = b"import sys\n" * 40
    folder = write_modules(
        tmp_path / "code", 60, latin=b"name = 'caf\xe9'\n", table=b"0,\n" * (LARGEST // 3 + 1), empty=b"",
        **{f"copy_{number}": copied for number in range(30)},
    )  # fmt: skip
    (folder / "gone.py").symlink_to(tmp_path / "nowhere")
    source, out = f"python:{folder}", tmp_path / "out"
    options = ("--vocab-size", 400, "--workers", 1)
    result = run_command("-m", "data_pipeline.prepare", "--source", source, "--out", out, *options)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        f"warning: not read of {source}: gone.py (a link to nothing); latin.py (not UTF-8); "
        "table.py (larger than 1 MiB)",
        "warning: 1 documents have no text and are left out",
        "warning: 29 documents are copies of others; all copies of a text are in one split",
    ]
    manifest = Manifest.load(out)
    found = {name: [part.info.title for part in read_documents(manifest, name)] for name in manifest.splits}
    assert sum(map(len, found.values())) == 90
    assert sorted(sum(title.startswith("copy_") for title in part) for part in found.values()) == [0, 0, 30]
    assert json.loads((out / "manifest.json").read_text())["request"]["source"] == "python: code"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("packaging,no_such_package", "'no_such_package' is neither an installed package with files nor a folder"),
        ("xml.dom", "'xml.dom' is neither"),
        ("sys", "'sys' is neither"),
        ("packaging,", "'' is neither"),
        ("./nowhere", "'./nowhere' is neither"),
        ("six", "has no text for"),
    ],
)
def test_what_cannot_be_a_source_is_one_line(
    tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None], names: str, message: str
) -> None:
    out = tmp_path / "out"
    result = run_command("-m", "data_pipeline.prepare", "--source", f"python:{names}", "--out", out)
    assert_user_error(result, message)
    assert not out.exists()
