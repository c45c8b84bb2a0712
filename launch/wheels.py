"""Fill a folder with what `launch/setup.sh --offline` installs where there is no internet.

    python launch/wheels.py WHEELS [--without-torch] [EXTRA ...]      (extras of pyproject.toml; default: sample)

Run it on a machine with internet, with the cluster's version of Python and its processor; it needs pip alone. WHEELS
gets the wheels, in the versions of constraints.txt, and requirements.txt, their list. --without-torch leaves out torch
and what only torch needs, for clusters that have it: in the version of constraints.txt.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent


def fail(message: str) -> NoReturn:
    """End with one line and status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def pip(*arguments: str) -> None:
    """Run it; its messages are the user's. Exit with status 2 where it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        fail(f"pip {arguments[0]} failed; its own lines above name the cause")


def stand_in_for_torch(folder: Path) -> None:
    """A wheel of torch, in the version of constraints.txt, that needs nothing."""
    pinned = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    version = f"{pinned[1]}+there"  # chosen before the same version of any index
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: maha\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def resolved(extras: list[str], with_torch: bool) -> list[str]:
    """What the project needs, as `name==version`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        if not with_torch:
            stand_in_for_torch(Path(folder))
        pip(
            "install", "--dry-run", "--ignore-installed", "--report", str(report), "--find-links", folder,
            "--constraint", "constraints.txt", f".[{','.join(extras)}]",
        )  # fmt: skip
        found = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
    left_out = {"maha-pretraining"} if with_torch else {"maha-pretraining", "torch"}
    return sorted(f"{each['name']}=={each['version']}" for each in found if each["name"].lower() not in left_out)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", metavar="WHEELS", type=Path)
    parser.add_argument("--without-torch", action="store_true", help="the cluster has torch")
    parser.add_argument("extras", metavar="EXTRA", nargs="*", default=["sample"])
    options = parser.parse_args()
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    if unknown := [extra for extra in options.extras if extra not in known]:
        fail(f"pyproject.toml has no extra {unknown[0]!r}; give some of: {' '.join(known)}")
    try:
        options.wheels.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {options.wheels}: {error.strerror}; give another")
    needed = resolved(options.extras, not options.without_torch)
    listed = options.wheels.resolve() / "requirements.txt"
    listed.write_text("".join(f"{each}\n" for each in needed), encoding="utf-8")
    # Made here of what has no wheel: a compiler or an index may be missing there.
    pip("wheel", "--no-deps", "--wheel-dir", str(listed.parent), "--requirement", str(listed))
    print(f"{len(needed)} wheels in {options.wheels}; there: bash launch/setup.sh --offline {options.wheels}")


if __name__ == "__main__":
    main()
