"""One colour per organ, wherever it is drawn: pictures, pages, the browser and the headers of masks."""

from __future__ import annotations

from collections.abc import Mapping

from fedcowpro.volume.dicom.organ_codes import code_of

# Okabe and Ito's, which people with the common colour deficiencies can tell apart, made to be seen on grey; then
# lighter and darker ones that stay apart from them.
COLOURS = (
    "#e69f00", "#56b4e9", "#1fbf92", "#f0e442", "#ff7a33", "#e39ac6", "#5c9dff", "#ffffff",
    "#b6ff3b", "#a8703a", "#00ffd5", "#ffb3b3", "#8f6bff", "#ff4fd2", "#9aab2e", "#9fd8ff",
)  # fmt: skip
ORGANS = (
    "liver", "right kidney", "left kidney", "spleen", "gallbladder", "stomach", "pancreas", "aorta",
    "esophagus", "inferior vena cava", "portal vein", "duodenum", "right adrenal gland", "left adrenal gland",
    "bladder", "small intestine",
)  # fmt: skip


def organ_colours(names: Mapping[int, str]) -> dict[int, str]:
    """A colour for each label value, '#rrggbb', ascending by value.

    An organ of the table has its own, others that of their value; where one is taken, the next free one. So colours
    repeat only where there are more labels than colours.

    Args:
        names: of the label values; '' where there is none.
    """
    wanted = {value: _own(name) for value, name in names.items()}
    # Those of the table come first, so that a label without a name never takes an organ's colour.
    chosen: dict[int, int] = {}
    for value in sorted(names, key=lambda value: (wanted[value] is None, value)):
        own = wanted[value]
        first = (value - 1) % len(COLOURS) if own is None else own
        places = [(first + step) % len(COLOURS) for step in range(len(COLOURS))]
        taken = set(chosen.values())
        chosen[value] = next((place for place in places if place not in taken), first)
    return {value: COLOURS[chosen[value]] for value in sorted(chosen)}


def _own(name: str) -> int | None:
    """Place of an organ in the table, by its name in whatever spelling."""
    (_, organ), side = code_of(name)
    plain = f"{side[1]} {organ}".lower() if side else organ.lower()
    return ORGANS.index(plain) if plain in ORGANS else None
