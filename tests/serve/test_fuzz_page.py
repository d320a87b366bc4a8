"""Uploads of any header: a volume that can be seen and saved, or a refusal; never a failure of the server."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faulty_dicom import FAULTS, write_faulty
from serve_pages import Page

EXAMPLES = int(os.environ.get("FEDCOWPRO_FUZZ", "100"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(st.tuples(st.sampled_from([None, 0, 2]), FAULTS), max_size=3))
def test_dicom_headers(page: Page, faults: list[tuple[int | None, tuple[str, str, Any]]]) -> None:
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        answer = page.upload(*write_faulty(faults), name="series")
        assert answer.status_code in (200, 400, 413, 415), answer.text
        assert answer.status_code == 200 or faults
        if answer.status_code == 200 and "id" in answer.json():
            place = f"/api/volumes/{answer.json()['id']}"
            assert page.get(f"{place}/image").status_code == 200
            assert page.get(f"{place}/export").status_code == 200
            page.delete(place)


@pytest.mark.parametrize("fault", [("type", "Modality", b"SQ"), ("length", "Columns", 63)])
def test_headers_that_pydicom_cannot_parse(page: Page, fault: tuple[str, str, Any]) -> None:
    answer = page.upload(*write_faulty([(None, fault)]), name="series")
    assert answer.status_code == 400
    assert "damaged" in answer.json()["error"]["got"]
