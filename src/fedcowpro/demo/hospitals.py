"""The four hospitals of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcowpro.config import Modality
from fedcowpro.data.phantom import ORGANS, Kind

_ABDOMEN = ("liver", "right kidney", "left kidney", "spleen")
_PELVIS = ("bladder", "rectum", "sigmoid colon", "femoral heads")


@dataclass(frozen=True)
class Hospital:
    """A site of the demo: its name, its kind of phantom, and the organs that are scored (label value to name)."""

    name: str
    kind: Kind
    organs: Mapping[int, str]

    @property
    def modality(self) -> Modality:
        """As `prepare` calls it."""
        return "ct" if self.kind == "ct" else "mr"


def _hospital(name: str, kind: Kind, region: str, organs: tuple[str, ...]) -> Hospital:
    return Hospital(name, kind, {value: organ for value, organ in ORGANS[region].items() if organ in organs})


HOSPITALS = (
    _hospital("hospital-ct", "ct", "abdomen", _ABDOMEN),
    _hospital("hospital-t1", "t1", "abdomen", _ABDOMEN),
    _hospital("hospital-t2", "t2", "abdomen", _ABDOMEN),
    _hospital("hospital-brachy", "brachy", "pelvis", _PELVIS),
)
