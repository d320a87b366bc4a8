"""One colour per organ."""

from __future__ import annotations

from fedcowpro.volume.organ_colours import COLOURS, ORGANS, organ_colours


def test_an_organ_has_its_colour_whatever_its_value_and_spelling() -> None:
    first = organ_colours({1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"})
    other = organ_colours({6: "Liver", 2: "Kidney_Right", 3: "kidney left", 1: "spleens"})
    assert first[1] == other[6]
    assert first[2] == other[2]
    assert first[3] == other[3]
    assert first[4] == other[1]
    assert list(other) == [1, 2, 3, 6]


def test_labels_without_an_organ_never_share_a_colour_until_there_are_no_more() -> None:
    found = organ_colours({1: "", 2: "liver", 3: "tumour of nobody", 17: "", 18: "right kidney"})
    assert len(set(found.values())) == 5
    assert found[2] == COLOURS[ORGANS.index("liver")]
    many = organ_colours(dict.fromkeys(range(1, 20), ""))
    assert len(set(many.values())) == len(COLOURS)
    assert {value: many[value] for value in range(1, 17)} == dict(zip(range(1, 17), COLOURS, strict=True))


def test_the_tables_have_as_many_rows() -> None:
    assert len(ORGANS) == len(COLOURS) == len(set(COLOURS))
    organs = organ_colours(dict(enumerate(ORGANS, 1)))
    assert tuple(organs.values()) == COLOURS
