"""DICOM image series: found by content, read as volumes, named without the patient (extra `dicom`).

What is a volume: at least 3 parallel slices of one SeriesInstanceUID, of CT or MR (or of no stated modality). A series
that holds several (echoes, phases, diffusion weightings) gives several volumes. Left out, with a note: localisers,
that is what says so in its image type and series with stacks in several directions; mosaics; colour images; images
without position; other modalities. A gap or an uneven distance between slices is refused, not bridged. A gantry tilt
is kept as it is: the slices stay as scanned and the grid's third axis is slanted, so masks return to the same pixels.

Nothing here puts a patient's attributes into a message, a `repr` or a warning. Messages name files; where a path has
the name or number of a patient whose header was read, `***` stands in its place (`redacting`).
"""

from __future__ import annotations

from fedcowpro.volume.dicom.discover import FoundSeries, SegmentationFile, find, find_series, read_image
from fedcowpro.volume.dicom.pseudonyms import load_or_make_key, pseudonym
from fedcowpro.volume.dicom.redaction import redact, redacting_errors
from fedcowpro.volume.dicom.series import Series

__all__ = [
    "FoundSeries",
    "SegmentationFile",
    "Series",
    "find",
    "find_series",
    "load_or_make_key",
    "pseudonym",
    "read_image",
    "redact",
    "redacting_errors",
]
