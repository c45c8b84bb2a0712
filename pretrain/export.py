"""A trained model for those who use it: python -m pretrain.export RUN --out DIR

The folder that it writes is described in pretrain/checkpoint/export.py.
"""

from pathlib import Path

from data_pipeline import CommandParser, UserError, check_folder, user_errors, user_path
from maha_model import ConfigError
from pretrain.checkpoint.export import FILE_BYTES, export

__all__ = ["export", "main"]


def main() -> None:
    """The command."""
    parser = CommandParser(prog="python -m pretrain.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, one of its checkpoints, or a folder of save_pretrained")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    gb = FILE_BYTES / 1e9
    parser.add_argument("--file-gb", type=float, default=gb, help=f"GB of weights in a file, at most (default {gb:g})")
    arguments = parser.parse_args()
    with user_errors(ConfigError):
        if not 0 < arguments.file_gb < float("inf"):
            raise UserError(f"--file-gb is {arguments.file_gb}; give a positive number")
        check_folder(user_path(arguments.out))
        path = export(arguments.run, user_path(arguments.out), int(arguments.file_gb * 1e9))
    print(f"{path} exported to {arguments.out}")


if __name__ == "__main__":
    main()
