"""A checkpoint's folder until it is whole: under another name, made durable, then renamed."""

import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import atomic_write, sync
from pretrain.checkpoint.format import FORMAT, INDEX, CheckpointInfo, sealed
from pretrain.checkpoint.parts import Part, located, write_arrays, write_bytes
from pretrain.checkpoint.retry import retried


class Draft:
    """The folder `final`, which is there as a whole after `finish`, and before that not at all."""

    def __init__(self, final: Path) -> None:
        """Make the folder under its temporary name.

        Raises:
            OSError: if it cannot be made; FileExistsError if there is a `final`, which stays as it is.
        """
        self._final, self._files = final, dict[str, Any]()
        self.folder = final.with_name(f".{final.name}.tmp")
        """Where its files are written."""
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        retried(self._make_folder, self.folder)

    def add(self, name: str, content: bytes) -> None:
        """Write a file. Raises OSError."""
        self._files[name] = write_bytes(self.folder / name, content)

    def add_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Write a file of safetensors. Raises OSError."""
        self._files[name] = write_arrays(self.folder / name, arrays)

    def finish(self, info: CheckpointInfo, parts: list[Part]) -> Path:
        """Write the index of the files and of `parts`, which the ranks have written here; rename. The final folder.

        Raises:
            OSError: if that fails.
        """
        listed = {part.name: {"bytes": part.bytes, "sha256": part.sha256} for part in parts}
        index = {"format": FORMAT, **asdict(info), "files": self._files | listed}
        if parts:
            index |= {"parts": list(listed), "tensors": located(parts)}
        content = sealed(index)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        retried(lambda: self._seal(f"{{\n{lines}\n}}\n"), self._final)
        return self._final

    def discard(self) -> None:
        """Remove what is there so far."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_folder(self) -> None:
        self._final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _seal(self, index: str) -> None:
        if self.folder.exists():  # else an earlier attempt has renamed it
            with atomic_write(self.folder / INDEX) as file:
                file.write(index.encode())
            self.folder.rename(self._final)
        sync(self._final.parent)
