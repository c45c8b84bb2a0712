"""What the model imports: torch, and where it is named, what one module is for."""

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALONE = {"torch", "maha_model"}
MORE = {
    "maha_model/kernels/native": {"ninja"},  # only to build, and only where no ninja is on the PATH
    "maha_model/aggregation": {"cvxpy", "cvxpylayers"},  # the solver that the exact one is compared with
    "maha_model/inference/huggingface": {"transformers", "sentencepiece"},
}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "maha_model").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_of_the_model_imports_torch_alone(path: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    allowed = MORE.get(str(path.parent.relative_to(ROOT)), set())
    if path.name.startswith("triton") or (path.parent.name == "fuse" and path.name == "registers.py"):
        allowed = allowed | {"triton"}  # kernels for GPUs, imported where one is there
    assert names - sys.stdlib_module_names - ALONE <= allowed
