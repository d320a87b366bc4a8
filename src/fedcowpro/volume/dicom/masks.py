"""A label map as an object of the DICOM series that it is of: a segmentation or a structure set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from fedcowpro.volume.dicom.series import Series


def write_masks(
    path: Path,
    labels_dhw: np.ndarray,
    series: Series,
    organs: Mapping[int, str],
    kind: Literal["dicom-seg", "rtstruct"],
) -> None:
    """Write labels in one of the two forms.

    Raises:
        FedCoWProError: as `write_segmentation` and `write_structure_set`.
    """
    if kind == "rtstruct":
        from fedcowpro.volume.dicom.structure_set import write_structure_set

        write_structure_set(path, labels_dhw, series, organs)
    else:
        from fedcowpro.volume.dicom.seg_reader import write_segmentation

        write_segmentation(path, labels_dhw, series, organs)
