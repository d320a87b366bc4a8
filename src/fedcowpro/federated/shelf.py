"""Replies of a round on disk, so that the server's memory does not grow with the number of sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays in a file; each look reads one of them."""

    def __init__(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self._file, self._names = file, sorted(arrays)
        try:
            save_file({name: np.asarray(arrays[name], order="C") for name in self._names}, file)
        except SafetensorError as error:  # its own kind even where the disk is full
            raise OSError(f"{file} cannot be written: {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._file, framework="np") as stored:
            return np.asarray(stored.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
