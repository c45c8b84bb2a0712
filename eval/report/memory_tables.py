"""The tables of a report that eval/memory.py has printed."""

import json
from pathlib import Path
from typing import Any

from data_pipeline import UserError, user_path


def read_memory_tables(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Whatever in the file is a list of records, by name; nothing without a file.

    Raises:
        UserError: if the file cannot be read or has no such list.
    """
    if path is None:
        return {}
    try:
        values = json.loads(user_path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read --memory {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--memory {path} is not JSON; give what python eval/memory.py --json printed") from error
    tables = {
        name: rows
        for name, rows in (values.items() if isinstance(values, dict) else ())
        if name != "figures" and rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    }
    if not tables:
        raise UserError(f"--memory {path} has no tables; give what python eval/memory.py --json printed")
    return tables
