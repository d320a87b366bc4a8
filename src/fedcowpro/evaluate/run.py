"""Evaluate a one-shot predictor on prepared sites: one annotated case supports, the other labelled cases query.

Dice is computed on the prepared grid, as published. The support is one volume of the same site; `support_slices`
says how many of its slices were used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from fedcowpro.data.site import Site
from fedcowpro.errors import FedCoWProError
from fedcowpro.evaluate.overlap import dice
from fedcowpro.evaluate.protocol import PROTOCOLS, Row, chunk_of, gt_range
from fedcowpro.infer import Bank, Encoded, Group, OneShotPredictor, pick_slices, slices_of
from fedcowpro.postprocess import count_parts, keep_components, location_map


@dataclass(frozen=True)
class Task:
    """Who supports, who queries, and for which organs (label value to name)."""

    support: str
    queries: tuple[str, ...]
    organs: Mapping[int, str]


def choose_task(
    site: Site, support: str | None = None, queries: Sequence[str] = (), organs: Sequence[str] = ()
) -> Task:
    """The support and query cases of a site.

    Without a choice, the roles given to `prepare` hold; without roles, the first labelled case supports and the
    other labelled ones query.

    Raises:
        FedCoWProError: fewer than two labelled cases, an unknown case or organ, or a support among the queries.
    """
    labelled = site.labelled_cases
    held_out = [case for case in site.with_role("support") if case in labelled]
    chosen = support or next(iter(held_out or labelled), None)
    roles = site.with_role("query") or labelled
    rest = tuple(queries) or tuple(case for case in roles if case in labelled and case != chosen)
    unknown = [case for case in (chosen, *rest) if case not in labelled]
    if unknown or not rest or chosen in rest:
        raise FedCoWProError(
            f"site {site.path}: support {chosen}, queries {list(rest)}, labelled cases {list(labelled)}",
            "one labelled support case and at least one other labelled query case",
            "choose them with --support and --queries, or prepare the site with --labels",
        )
    names = {value: name for value, name in site.organs.items() if not organs or name in organs}
    missing = set(organs) - set(names.values())
    if missing:
        raise FedCoWProError(
            f"site {site.path} has no organ {sorted(missing)}",
            f"names among {sorted(site.organs.values())}",
            "correct the names, or prepare the site with --organs",
        )
    assert chosen is not None
    return Task(chosen, rest, names)


def evaluate_site(
    predictor: OneShotPredictor,
    site: Site,
    task: Task,
    *,
    name: str,
    method: str,
    seed: int,
    protocols: Sequence[str] = PROTOCOLS,
    on_case: Callable[[str], None] | None = None,
    on_prediction: Callable[[str, int, np.ndarray], None] | None = None,
) -> list[Row]:
    """Scores of every query case and organ; each distinct slice is encoded once.

    Organs that the support lacks are left out. An organ that the query lacks has no `gt-range` row; its
    `whole-volume` Dice is 0 if something was predicted and NaN (not defined) if not.

    Args:
        predictor: its configuration says how many support slices, which views and which post-processing.
        site: prepared folder with labels.
        task: cases and organs.
        name: the site's name in the rows.
        method, seed: columns of the rows.
        protocols: of `PROTOCOLS`.
        on_case: called with the id of each finished query case.
        on_prediction: called with (case, organ value, mask (depth, size, size)) of each whole-volume prediction.
    """
    support = _Support(predictor, site, task)
    config = predictor.config
    rows = []
    for case in task.queries:
        truth = site.labels(case)
        query = _Query.encode(predictor, site, case, truth, support.organs, protocols)
        for protocol in protocols:
            pairing = support.pairing(protocol)
            masks = query.masks(support, pairing)
            for organ, mask in zip(support.organs, masks, strict=True):
                scored = query.slices(organ, protocol)
                if scored is None:
                    continue
                prediction = mask[query.position[scored]]
                if config.keep_components:
                    prediction = keep_components(prediction, *support.parts(organ))
                if protocol == "whole-volume" and on_prediction is not None:
                    on_prediction(case, organ, prediction)
                rows.append(
                    Row(
                        method, seed, name, case, task.organs[organ], protocol,
                        dice(prediction, truth[scored] == organ), task.support, str(config.support_slices),
                        {"pairing": pairing, **_options(predictor)},
                    )
                )  # fmt: skip
        if on_case is not None:
            on_case(case)
    return rows


def _options(predictor: OneShotPredictor) -> dict[str, str]:
    config = predictor.config
    return {
        "scales": "+".join(f"{scale:g}" for scale in config.scales),
        "flip": str(config.flip).lower(),
        "refine": str(config.refine),
        "threshold": f"{config.threshold:g}",
        "keep_components": str(config.keep_components).lower(),
    }


class _Support:
    """The annotated case: its used slices encoded once, and a bank of prototypes for each way of pairing."""

    def __init__(self, predictor: OneShotPredictor, site: Site, task: Task) -> None:
        labels = site.labels(task.support)
        self.predictor = predictor
        self.organs = [organ for organ in task.organs if (labels == organ).any()]
        if not self.organs:
            raise FedCoWProError(
                f"support case '{task.support}' of {site.path} shows none of {list(task.organs.values())}",
                "a support with at least one of them",
                "choose another case with --support",
            )
        picked = {
            organ: pick_slices(slices_of(labels, organ), predictor.config.support_slices) for organ in self.organs
        }
        used = sorted({z for slices in picked.values() for z in slices})
        self.picked = {organ: tuple(used.index(z) for z in slices) for organ, slices in picked.items()}
        self.labels = labels[used]
        self.encoded = predictor.encode(np.stack([site.image_slice(task.support, z) for z in used]))
        self._banks: dict[str, Bank] = {}

    def parts(self, organ: int) -> tuple[np.ndarray, int]:
        """Where the organ lies in its support slices, and in how many parts (for `keep_components`)."""
        mask = self.labels[sorted(set(self.picked[organ]))] == organ
        return location_map(mask), count_parts(mask)

    def pairing(self, protocol: str) -> str:
        """Thirds of the organ need the query's truth, so they exist in `gt-range` only."""
        return self.predictor.config.pairing if protocol == "gt-range" else "bag"

    def groups(self, organ: int, pairing: str) -> list[Group]:
        """One group of all its slices, or one for each."""
        picked = self.picked[organ]
        return [Group(organ, slices) for slices in ([picked] if pairing == "bag" else [(z,) for z in picked])]

    def bank(self, pairing: str) -> Bank:
        """Prototypes of `groups` of all organs, in order."""
        if pairing not in self._banks:
            groups = [group for organ in self.organs for group in self.groups(organ, pairing)]
            self._banks[pairing] = self.predictor.bank(self.encoded, self.labels, groups)
        return self._banks[pairing]


class _Query:
    """The slices of a case that the protocols need, encoded once.

    Attributes:
        position: (depth,) where slice z stands among the encoded ones.
    """

    def __init__(self, encoded: Encoded, truth: np.ndarray, needed: np.ndarray) -> None:
        self.encoded, self.truth = encoded, truth
        self.position = needed.cumsum() - 1
        self._numbers = np.flatnonzero(needed)
        self._masks: dict[str, np.ndarray] = {}

    @classmethod
    def encode(
        cls,
        predictor: OneShotPredictor,
        site: Site,
        case: str,
        truth: np.ndarray,
        organs: Sequence[int],
        protocols: Sequence[str],
    ) -> _Query:
        needed = np.full(len(truth), "whole-volume" in protocols)
        for organ in organs:
            if (truth == organ).any():
                low, high = gt_range(truth == organ)
                needed[low : high + 1] = True
        return cls(predictor.encode(site.image(case)[needed]), truth, needed)

    def slices(self, organ: int, protocol: str) -> slice | None:
        """Which slices are scored; None where the protocol is not defined."""
        if protocol == "whole-volume":
            return slice(0, len(self.truth))
        if not (self.truth == organ).any():
            return None
        low, high = gt_range(self.truth == organ)
        return slice(low, high + 1)

    def masks(self, support: _Support, pairing: str) -> Bool[np.ndarray, "k n s s"]:
        """Predictions for all organs on the encoded slices."""
        if pairing not in self._masks:
            choice, start = [], 0
            for organ in support.organs:
                groups = len(support.groups(organ, pairing))
                choice.append(start + self._thirds(organ, groups))
                start += groups
            bank = support.bank(pairing)
            self._masks[pairing] = support.predictor.masks(self.encoded, bank, np.stack(choice))
        return self._masks[pairing]

    def _thirds(self, organ: int, groups: int) -> np.ndarray:
        """Group of each encoded slice: its part of the organ's true extent, if there is more than one group."""
        if groups == 1 or not (self.truth == organ).any():
            return np.zeros(len(self._numbers), np.int64)
        return chunk_of(self._numbers, *gt_range(self.truth == organ), groups)
