"""A page about one site: its volumes, its superpixels, and what may train badly. For the site's own eyes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.progress import ProgressBar
from fedcowpro.data.preparation.site import Site
from fedcowpro.reports.demo_report.sections import facts
from fedcowpro.reports.site_report import page as inspect_page
from fedcowpro.reports.site_report.case_facts import CaseFacts, measure
from fedcowpro.reports.site_report.findings import findings
from fedcowpro.reports.site_report.pictures import pictures
from fedcowpro.reports.toolkit.render import write_page

THREADS = 4  # more wait for each other: half of the work holds Python's lock


def inspect(site: Site, out: Path, *, workers: int = THREADS, shown: int = 3, progress: bool = True) -> tuple[str, ...]:
    """Write the page; an existing file is replaced as a whole. The same site gives the same bytes.

    Labels are read where there are some, those of training cases too; training never reads them.

    Args:
        site: a prepared site.
        out: HTML file to write; missing folders are made.
        workers: cases measured at a time.
        shown: cases of which slices are shown.
        progress: draw a progress bar on standard error.

    Returns:
        the warnings as lines of text; none where nothing serious was found.

    Raises:
        FedCoWProError: a damaged site folder, `out` is a folder, or options below their least.
    """
    if workers < 1 or shown < 0:
        raise FedCoWProError(f"workers {workers}, shown {shown}", "at least 1 and 0", "leave them out")
    if Path(out).is_dir():
        raise FedCoWProError(
            f"{out} is a folder", "an HTML file to write", f"write for example {Path(out) / 'site.html'}"
        )
    cases = _measure(site, workers, progress)
    organs = dict(sorted(site.organs.items()))
    found = findings(cases, site.n_train_slices, organs)
    sections = (
        ("What may train badly", inspect_page.findings(found)),
        ("Cases", inspect_page.cases_table(cases)),
        ("Grey values", inspect_page.grey(cases)),
        ("Superpixels", inspect_page.superpixels(cases)),
        ("How well superpixels fit organs", inspect_page.fit(cases, organs)),
        ("What it looks like", pictures(site, cases, shown)),
        ("How it was prepared", facts(_settings(site))),
    )
    lead = inspect_page.lead(cases, site.n_train_slices, found)
    write_page(Path(out), f"Site {site.path.resolve().name}", lead, sections, [inspect_page.LABELS_READ])
    return tuple(f"{finding.heading}: {finding.text}" for finding in found if finding.serious)


def _measure(site: Site, workers: int, progress: bool) -> list[CaseFacts]:
    measured = []
    with ProgressBar(progress) as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("inspecting cases", total=len(site.cases))
        for case in pool.map(lambda record: measure(site, record.id), site.cases):
            measured.append(case)
            bar.advance(task)
    return measured


def _settings(site: Site) -> dict[str, str]:
    settings = site.manifest.settings
    return {
        "prepared by": f"fedcowpro {site.manifest.fedcowpro}; this page by {__version__}",
        "site digest": site.digest,
        "slices": f"{site.size} x {site.size} pixels",
        "window (CT)": f"{settings.window[0]:g} to {settings.window[1]:g} HU",
        "upper clip (MR)": f"{settings.percentile:g}th percentile",
        "spacing asked for": "the volumes' own" if settings.spacing is None else f"{settings.spacing:g} mm",
        "superpixels": ", ".join(f"{name} {value}" for name, value in settings.superpixels if value is not None),
    }
