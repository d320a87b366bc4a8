"""Pages of the tests' tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import RESAMPLES

from fedcowpro.reports.comparison.page import compare_page


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Writes a page and reads it; Markdown unless another name is given."""

    def write(*sources: Path, name: str = "page.md", **options: Any) -> str:
        return compare_page(sources, tmp_path / name, **{"resamples": RESAMPLES, **options}).read_text(encoding="utf-8")

    return write
