"""Evaluation as data: which annotated slices support which query cases. Written once, used by every method.

An episode file names sites, cases, organs and slices, and the digest of each site's images and labels, so that
results of different methods, machines and months are results on the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from fedcowpro import __version__
from fedcowpro.config import Config
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.data.preparation.site import Site
from fedcowpro.oneshot.slices import support_slices


class Example(Config):
    """One annotated case: its site's name, its id, and per organ the slices whose annotation is used."""

    site: str
    case: str
    slices: dict[str, tuple[int, ...]]


class Episode(Config):
    """Annotated cases and the cases of one site that are segmented like them.

    `organs` are names; an organ that no example shows is not asked for. `support_slices` is how many annotated
    slices of each example are used, or "all".
    """

    site: str
    support_slices: int | Literal["all"]
    supports: tuple[Example, ...] = Field(min_length=1)
    queries: tuple[str, ...] = Field(min_length=1)
    organs: tuple[str, ...] = Field(min_length=1)

    @property
    def support_site(self) -> str:
        """The examples' sites, as in the table of results."""
        return "+".join(dict.fromkeys(example.site for example in self.supports))

    @property
    def support_numbers(self) -> str:
        """How many slices of each example, as in the table of results."""
        return "+".join(str(self.support_slices) for _ in self.supports)

    @property
    def support_case(self) -> str:
        """The examples' ids, as in the table of results."""
        return "+".join(example.case for example in self.supports)


class Episodes(Config):
    """An episode file. `digests` are `Site.labelled_digest` of the sites it was made for."""

    version: Literal[1]
    fedcowpro: str
    digests: dict[str, str]
    episodes: tuple[Episode, ...] = Field(min_length=1)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    def require_sites(self, sites: Mapping[str, Site]) -> None:
        """Refuse sites that are not the ones the episodes were made for."""
        for name, digest in self.digests.items():
            if name not in sites:
                raise FedCoWProError(
                    f"no site '{name}' ({', '.join(sites) or 'none'} given)",
                    "the sites that the episodes name",
                    f"give --site {name}=FOLDER",
                )
            if sites[name].labelled_digest != digest:
                raise FedCoWProError(
                    f"images and labels of site '{name}' ({sites[name].path}) have the digest "
                    f"{sites[name].labelled_digest}",
                    f"{digest}, for which the episodes were made",
                    "use that site folder, or write new episodes",
                )


def load_episodes(path: Path) -> Episodes:
    """Read an episode file.

    Raises:
        FedCoWProError: no such file, or not an episode file.
    """
    try:
        return Episodes.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise FedCoWProError(
            f"no file {path}", "an episode file", "'fedcowpro evaluate' writes one beside its table"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise FedCoWProError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            "an episode file of version 1",
            "let 'fedcowpro evaluate' write it anew, beside its table",
        ) from error


def plan_episodes(
    sites: Mapping[str, Site],
    *,
    supports: Sequence[str] = (),
    queries: Sequence[str] = (),
    organs: Sequence[str] = (),
    slices: int | Literal["all"] = 3,
    every_support: bool = False,
    cross: bool = False,
) -> Episodes:
    """Choose the episodes of sites with labels.

    Without a choice, the roles given to `prepare` hold; without roles, the first labelled case supports and the
    other labelled ones query.

    Args:
        sites: name -> site.
        supports: ids of the annotated cases, which together are one example; the same at each site.
        queries: ids of the query cases.
        organs: names; none = all that a site has.
        slices: how many annotated slices per organ and case: at the middles of equal parts of the organ, or 'all'.
        every_support: each labelled held-out case (support or query) supports the other ones in turn.
        cross: each site's examples for every site's queries.

    Raises:
        FedCoWProError: fewer than two labelled cases, an unknown case or organ, a support among the queries,
            or support slices without any of the organs.
    """
    if every_support and supports:
        raise FedCoWProError(
            f"supports {', '.join(supports)} and every case in turn", "one of the two", "leave one of them out"
        )
    examples = {
        name: list(_examples(name, site, supports, organs, slices, every_support)) for name, site in sites.items()
    }
    planned = []
    for name, site in sites.items():
        for origin in sites if cross else (name,):
            for example in examples[origin]:
                asked = _queries(site, example if origin == name else (), queries, every_support)
                names = tuple(organ for organ in _organs(name, site, organs) if any(organ in e.slices for e in example))
                if names:
                    planned.append(
                        Episode(site=name, support_slices=slices, supports=tuple(example), queries=asked, organs=names)
                    )
    if not planned:
        raise FedCoWProError(
            "no example shows an organ that a query site names", "organs of the same name", "see --organs of 'prepare'"
        )
    digests = {name: site.labelled_digest for name, site in sites.items()}
    return Episodes(version=1, fedcowpro=__version__, digests=digests, episodes=tuple(planned))


def _examples(
    name: str, site: Site, supports: Sequence[str], organs: Sequence[str], slices: int | str, every_support: bool
) -> Iterator[list[Example]]:
    """The groups of annotated cases that support together."""
    labelled = site.labelled_cases
    held_out = [case for case in (*site.with_role("support"), *site.with_role("query")) if case in labelled]
    if every_support:
        groups = [[case] for case in held_out or labelled]
    elif supports:
        groups = [list(supports)]
    else:
        chosen = [case for case in site.with_role("support") if case in labelled] or list(labelled[:1])
        groups = [chosen]
    for group in groups:
        unknown = [case for case in group if case not in labelled]
        if unknown or not group or len(labelled) < 2:
            raise _unfit(site, group, ())
        yield [Example(site=name, case=case, slices=_slices(site, case, organs, slices)) for case in group]
    _organs(name, site, organs)


def _slices(site: Site, case: str, organs: Sequence[str], slices: int | str) -> dict[str, tuple[int, ...]]:
    labels = site.labels(case)
    picked = {}
    for value, organ in site.organs.items():
        shown = np.flatnonzero((labels == value).any(axis=(1, 2))) if not organs or organ in organs else ()
        if len(shown):
            chosen = shown if slices == "all" else support_slices([int(z) for z in shown], int(slices))
            picked[organ] = tuple(int(z) for z in chosen)
    if not picked:
        raise FedCoWProError(
            f"support case '{case}' of {site.path} shows none of {list(organs) or list(site.organs.values())}",
            "a support with at least one of them",
            "choose another case with --support",
        )
    return picked


def _queries(site: Site, example: Sequence[Example], queries: Sequence[str], every_support: bool) -> tuple[str, ...]:
    labelled, used = site.labelled_cases, [one.case for one in example]
    roles = site.with_role("query") or labelled
    if every_support and site.with_role("query"):
        roles = (*site.with_role("support"), *roles)
    asked = tuple(queries) or tuple(case for case in roles if case in labelled and case not in used)
    if not asked or any(case not in labelled or case in used for case in asked):
        raise _unfit(site, used, asked)
    return asked


def _organs(name: str, site: Site, organs: Sequence[str]) -> tuple[str, ...]:
    names = tuple(organ for organ in site.organs.values() if not organs or organ in organs)
    if missing := set(organs) - set(names):
        raise FedCoWProError(
            f"site '{name}' ({site.path}) has no organ {sorted(missing)}",
            f"names among {sorted(site.organs.values())}",
            "correct the names, or prepare the site with --organs",
        )
    return names


def _unfit(site: Site, supports: Sequence[str], queries: Sequence[str]) -> FedCoWProError:
    return FedCoWProError(
        f"site {site.path}: support {', '.join(supports) or 'none'}, queries {list(queries)}, "
        f"labelled cases {list(site.labelled_cases)}",
        "one labelled support case and at least one other labelled query case",
        "choose them with --support and --queries, or prepare the site with --labels",
    )
