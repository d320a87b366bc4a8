"""The page that says which method is better, by how much, and on what that rests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.evaluation.statistics.intervals import RESAMPLES, Method
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.answer import answer, lead
from fedcowpro.reports.comparison.distributions import distributions
from fedcowpro.reports.comparison.inputs import Inputs, gather
from fedcowpro.reports.comparison.provenance import provenance
from fedcowpro.reports.comparison.settings import ComparisonSettings
from fedcowpro.reports.comparison.tables import tables
from fedcowpro.reports.comparison.training import training
from fedcowpro.reports.toolkit.blocks import Document, Items, Section
from fedcowpro.reports.toolkit.numbers import listed
from fedcowpro.reports.toolkit.render import document_html, document_markdown

MARGIN = 0.02  # of Dice
FORMATS = (".html", ".md")
_NAMED = 3  # methods that the title names


def compare_page(
    sources: Sequence[Path],
    out: Path,
    *,
    reference: str | None = None,
    margin: float = MARGIN,
    protocol: str | None = None,
    infinite: float | None = None,
    seed: int = 0,
    command: str | None = None,
    sites: Mapping[str, Path] | None = None,
    resamples: int = RESAMPLES,
    interval: Method = "studentised",
) -> Path:
    """Compare methods and write the page; equal input gives equal bytes.

    Args:
        sources: CSVs of results, run folders, study folders, mixed.
        out: file to write, .html or .md; an existing one is replaced as a whole.
        reference: method that the others are compared with; None = a study's own, else 'untrained', else the first.
        margin: largest difference of Dice that counts as none, for equivalence.
        protocol: in which the question is answered; None = whole-volume where it was scored.
        infinite: what an infinite HD95 counts as, in mm; None = medians are shown where there is one.
        seed: of the bootstrap.
        command: that made the page, to be shown on it.
        sites: name -> site folder, for the modality of its cases.
        resamples: number of bootstrap samples.
        interval: how intervals are made (see `Draws`).

    Returns:
        `out`.

    Raises:
        FedCoWProError: another ending of `out`; unreadable sources; scores that cannot be compared; an unknown
            reference, protocol or interval; a margin or `infinite` that is not positive.
    """
    if out.suffix.lower() not in FORMATS:
        raise FedCoWProError(f"--out {out}", f"a name that ends in {' or '.join(FORMATS)}", "correct --out")
    if infinite is not None and not 0 < infinite < float("inf"):
        raise FedCoWProError(f"{infinite} mm for an infinite HD95", "a positive number", "correct it or leave it out")
    if seed < 0:
        raise FedCoWProError(f"seed {seed}", "0 or more", "correct --seed")
    folders = {name: Path(path) for name, path in (sites or {}).items()}
    inputs = gather(sources, reference=reference, protocol=protocol, folders=folders)
    settings = ComparisonSettings(inputs.reference, margin, seed, resamples, infinite, interval)
    html = out.suffix.lower() == FORMATS[0]
    document = _document(inputs, settings, command, folders)
    write_atomic(out, document_html(document) if html else document_markdown(document))
    return out


def _document(
    inputs: Inputs, settings: ComparisonSettings, command: str | None, folders: Mapping[str, Path]
) -> Document:
    whole = settings.compare(inputs.rows[inputs.rows["protocol"] == inputs.protocol]) if inputs.protocol else None
    sections: list[Section | None] = [answer(inputs, whole, settings)]
    if inputs.protocol is not None:
        sections += [tables(inputs, settings), distributions(inputs, settings)]
    sections += [training(inputs), provenance(inputs, settings, command, folders)]
    sections.append(Section("Limits", (Items(wording.LIMITS),)))
    kept = tuple(section for section in sections if section is not None)
    return Document(_title(inputs), lead(inputs, whole), kept)


def _title(inputs: Inputs) -> str:
    if names := [str(record["name"]) for source in inputs.sources if (record := source.record or {}).get("name")]:
        return f"Comparison: {listed(names)}"
    if not inputs.methods:
        return "Comparison of trainings"
    if len(inputs.methods) > _NAMED:
        return f"Comparison of {len(inputs.methods)} methods"
    return f"Comparison of {listed(inputs.methods)}" if len(inputs.methods) > 1 else f"Scores of {inputs.methods[0]}"
