"""The console script: maha COMMAND [options], from any folder, in a checkout or installed.

Every command is a module with a `main()` of its own; only training goes through a script, which starts its processes.
"""

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

COMMANDS = {
    "doctor": "pretrain.doctor.__main__",
    "prepare": "data_pipeline.prepare",
    "merge": "data_pipeline.merge",
    "verify": "data_pipeline.verify",
    "train": "pretrain.train",
    "watch": "pretrain.watch.__main__",
    "plan": "pretrain.plan",
    "export": "pretrain.export",
    "ppl": "eval.ppl",
    "memory": "eval.memory",
    "compare": "eval.compare",
    "recall": "eval.recall",
    "study": "eval.study",
    "generate": "eval.generate",
    "harness": "eval.harness",
    "bench": "eval.bench.__main__",
}


def main() -> None:
    """Run the command that the first argument names; the others are its options."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: maha COMMAND [options]; maha COMMAND --help lists them\n\n{_described()}")
    elif name == "--version":
        print(f"maha {importlib.metadata.version('maha-pretraining')}")
    elif name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: maha has no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    elif name == "train":
        _train(options)
    else:
        sys.argv = [f"maha {name}", *options]
        importlib.import_module(COMMANDS[name]).main()


def _train(options: list[str]) -> None:
    """Become launch/pretrain.sh, with this interpreter instead of an environment of the script's own."""
    script = Path(__file__).with_name("pretrain.sh")
    os.environ["MAHA_PYTHON"] = sys.executable
    os.execvp("bash", ["bash", str(script), *options])


def _described() -> str:
    """A line for each command: what its module's docstring begins with, read without importing it."""
    lines = []
    for name, module in COMMANDS.items():
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None, f"{module} has a file"
        docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
        lines.append(f"  {name:10}{docstring.splitlines()[0].partition(': python')[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
