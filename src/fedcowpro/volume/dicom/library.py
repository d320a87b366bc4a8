"""pydicom and highdicom, which come with the extra `dicom`, kept quiet about what stands in a header."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from fedcowpro.core.errors import FedCoWProError

EXTRA = "pip install 'fedcowpro[dicom]'"
_lock = threading.Lock()
_within, _before = 0, ExitStack()  # threads within `quiet`, and what the last one undoes


def library(name: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        FedCoWProError: it is not installed, or in a version that lacks the module.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        try:
            there = f"package '{package}' {version(package)} has no usable '{name}' ({error})"
        except PackageNotFoundError:
            there = f"no package '{package}'"
        raise FedCoWProError(there, "it is needed for DICOM files", EXTRA) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings within: theirs quote header values, and a value may be a patient's name.

    It holds for the whole process: of several threads the first one within makes it so, the last one out undoes it.
    """
    global _within, _before
    with _lock:
        if _within == 0:
            _before = ExitStack()
            _before.enter_context(_silence())
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _before.close()


@contextmanager
def _silence() -> Iterator[None]:
    config = library("pydicom.config")
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = before
