"""The folder of a run, always in a state from which the run can go on.

RUN/config.yaml                     settings, with the sites' folders
RUN/run.json                        command, digests of settings and sites, versions, counts, what privacy may cost
RUN/metrics.jsonl                   a line for each round and site, each alarm and each evaluation
RUN/releases.jsonl                  with differential privacy: a line for each release, repeated rounds too
RUN/audit.jsonl                     every message of the run as the server saw it (`governance.audit_log`)
RUN/audit/<site>.jsonl              in one process and on Ray: the same as the site saw it
RUN/evaluation.json, evaluation.csv scores that sites gave of the model, where they were asked for
RUN/rounds/round_0003/              each of the last three complete rounds: model.safetensors, model.json,
RUN/rounds/round_0003/sites/        what sites keep to themselves (normalisation: local)
RUN/rounds/round_0003/server.safetensors  and the moments of the server's optimiser, where it has one
RUN/model.safetensors, model.json   the result
RUN/MODEL_CARD.md                   the result in words, to be read by people
RUN/sites/<site>.safetensors        with local normalisation: each site's own model, with its card
RUN/tensorboard/, RUN/mlruns/       tracks, where asked for
RUN/.lock                           held by the process that writes here
RUN/teaching/                       the second stage, where the settings have one: a run folder like this one, whose
                                    model.safetensors segments its organs without an example
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json
from fedcowpro.core.versions import versions
from fedcowpro.evaluation.model_card import CARD_NAME, write_model_card
from fedcowpro.federated.monitoring.rounds import truncate_rounds
from fedcowpro.federated.monitoring.scores import forget_scores
from fedcowpro.federated.privacy.accountant import privacy_facts
from fedcowpro.federated.privacy.releases import Releases
from fedcowpro.federated.server.sampling import planned_rates
from fedcowpro.federated.site.local_training import SiteFacts
from fedcowpro.model.checkpoint import FILE_NAME, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from fedcowpro.model.checkpoint import FORMAT as MODEL

FORMAT = "fedcowpro-run/1"
KEPT = 3  # rounds: a model that a round spoilt shows in the next one or two
_MOMENTS, _SITES = "server.safetensors", "sites"
SiteStates = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class CompleteRound:
    """A round from which to go on: global tensors; where there are any, each site's own, and the server's moments."""

    number: int
    state: dict[str, Tensor]
    sites: dict[str, dict[str, Tensor]]
    moments: dict[str, Tensor] = field(default_factory=dict)


class RunFolder:
    """Reads and writes a run's folder; every write is whole or not there.

    Args:
        path: the folder.
        kind: format of its checkpoints.
    """

    def __init__(self, path: Path, kind: str = MODEL) -> None:
        self.path, self._kind = path, kind
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.model_file = path / FILE_NAME
        self.card_file = path / CARD_NAME
        self._record_file = path / "run.json"
        self.audit_file = path / "audit.jsonl"
        self.releases = Releases(path / "releases.jsonl")
        self.replies = path / "replies"
        self._rounds = path / "rounds"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the folder, which is made if it is not there.

        Raises:
            FedCoWProError: another process writes to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise FedCoWProError(
                f"another process trains in {self.path}", "one at a time", "wait for it, or choose another folder"
            ) from error

    def start(
        self,
        config: ExperimentConfig,
        facts: Sequence[SiteFacts],
        resume: bool,
        command: str | None = None,
        absent: Iterable[str] = (),
        device: str | None = None,
    ) -> None:
        """Begin a run, or check that the run in this folder is the same and tidy up after an interruption.

        Args:
            config: the settings, with the sites' folders.
            facts: of each site.
            resume: whether a run in the folder may go on.
            command: what the user typed or called; a run keeps that of its beginning.
            absent: names of sites that may be missing.
            device: what trains, where it is the same for all sites.

        Raises:
            FedCoWProError: the folder holds a run of other settings or data, or any run if `resume` is False.
        """
        sites = {site.name: asdict(site) for site in facts}
        digest = config.model_copy(update={"sites": ()}).digest()
        if not self._record_file.exists():
            self._rounds.mkdir(parents=True, exist_ok=True)
            settings = config.model_dump(mode="json")
            write_atomic(self.config_file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode())
            started = datetime.now(UTC).isoformat(timespec="seconds")
            record: dict[str, Any] = {
                "format": FORMAT,
                "config_digest": digest,
                "seed": config.seed,
                "started": started,
            }
            record |= {"command": command, "versions": versions(), **({"device": device} if device else {})}
            record |= {"expected": sorted({site.name for site in config.sites} or sites), "sites": sites}
            if planned := privacy_facts(config.federation.privacy, planned_rates(config.federation)):
                record["planned"] = planned
            write_atomic(self._record_file, (json.dumps(record, indent=2) + "\n").encode())
        elif not resume:
            raise FedCoWProError(
                f"{self.path} holds a run already", "an empty folder", "choose another, or resume the run"
            )
        else:
            self._check_same(digest, sites, frozenset(absent))
            self._check_releases(config)
        truncate_rounds(self.metrics_file, self.completed())
        forget_scores(self.path, self.completed())
        shutil.rmtree(self.replies, ignore_errors=True)

    def record(self) -> dict[str, Any]:
        """`run.json`: format, started, command, seed, versions, and per site its facts.

        Raises:
            FedCoWProError: missing, damaged, or of another format.
        """
        try:
            record = from_json(self._record_file.read_text(encoding="utf-8"))
            if not {"config_digest", "sites"} <= record.keys() or record.get("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
        except (OSError, ValueError, AttributeError) as error:
            raise FedCoWProError(
                f"{self._record_file} cannot be read: {error!r}",
                "the record of a run",
                "choose another folder",
            ) from error
        return dict(record)

    def digests(self) -> dict[str, str]:
        """Digest of each site's data as the run knows it; empty before the run."""
        if not self._record_file.exists():
            return {}
        return {name: str(site["digest"]) for name, site in self.record()["sites"].items()}

    def slice_size(self) -> int | None:
        """Height and width of the slices in the run, in pixels; None before the run."""
        sizes = {int(site["size"]) for site in self.record()["sites"].values()} if self._record_file.exists() else set()
        return max(sizes, default=None)

    def joined(self, facts: Sequence[SiteFacts]) -> None:
        """Note sites that came after the run had started."""
        record = self.record()
        if new := {site.name: asdict(site) for site in facts if site.name not in record["sites"]}:
            record["sites"] = dict(sorted({**record["sites"], **new}.items()))
            write_atomic(self._record_file, (json.dumps(record, indent=2) + "\n").encode())

    def key(self) -> str:
        """A name for this run that stays when it is resumed or sites join, and says nothing of the coordinator."""
        found = from_json(self._record_file.read_text(encoding="utf-8"))
        lasting = {name: value for name, value in found.items() if name != "sites"}
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:16]

    def completed(self) -> int:
        """Number of complete rounds."""
        return max(self.kept_rounds(), default=0)

    def kept_rounds(self) -> list[int]:
        """Numbers of the complete rounds that are there, in order."""
        names = (re.fullmatch(r"round_(\d{4,})", folder.name) for folder in self._rounds.glob("round_*"))
        return sorted(int(name[1]) for name in names if name is not None)

    def go_back(self, number: int, config: ExperimentConfig) -> None:
        """Forget the rounds after this one, and the result; the run then goes on from there.

        Args:
            number: of the round.
            config: the settings, with which the run has to have been started.

        Raises:
            FedCoWProError: the round is not there, or the settings are others.
        """
        if number not in (kept := self.kept_rounds()):
            raise FedCoWProError(
                f"round {number} of the run in {self.path}",
                f"one of the rounds that are there: {', '.join(map(str, kept)) or 'none'}",
                "choose one of them, or start a new run in another folder",
            )
        self._check_settings(config.model_copy(update={"sites": ()}).digest())
        for file in (self.model_file, self.model_file.with_suffix(".json"), self.card_file):
            file.unlink(missing_ok=True)
        for later in reversed(kept):
            if later > number:
                shutil.rmtree(self._round_folder(later))
        truncate_rounds(self.metrics_file, number)
        forget_scores(self.path, number)

    def last_round(self) -> CompleteRound | None:
        """The last complete round, None before the first.

        Raises:
            FedCoWProError: its files are damaged.
        """
        number = self.completed()
        if number == 0:
            return None
        folder = self._round_folder(number)
        state, _ = load_checkpoint(folder, self._kind)
        moments = folder / _MOMENTS
        sites = {file.stem: load_tensors(file) for file in sorted((folder / _SITES).glob("*.safetensors"))}
        return CompleteRound(number, state, sites, load_tensors(moments) if moments.is_file() else {})

    def commit(
        self,
        number: int,
        state: Mapping[str, Tensor],
        card: Mapping[str, Any],
        sites: SiteStates,
        moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep a complete round beside the two before it: one rename makes it count."""
        folder = self._round_folder(number)
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        save_checkpoint(temporary / FILE_NAME, state, card, self._kind)
        (temporary / _SITES).mkdir()
        for site, own in sites.items():
            save_tensors(temporary / _SITES / f"{site}.safetensors", own)
        if moments:
            save_tensors(temporary / _MOMENTS, moments)
        os.replace(temporary, folder)
        for older in self.kept_rounds()[:-KEPT]:
            shutil.rmtree(self._round_folder(older))

    def finish(
        self, last: CompleteRound, card: Mapping[str, Any], new_site_layers: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the result of the run; may be repeated.

        Args:
            new_site_layers: those of the model for sites that have none of their own, where not those of `last.state`.
        """
        for site, own in last.sites.items():
            save_checkpoint(self.path / "sites" / f"{site}.safetensors", {**last.state, **own}, card)
        save_checkpoint(self.model_file, {**last.state, **(new_site_layers or {})}, card, self._kind)
        if self._kind == MODEL:
            write_model_card(self.model_file)
        shutil.rmtree(self.replies, ignore_errors=True)

    def is_finished(self, rounds: int) -> bool:
        """Whether the result is there and whole."""
        try:
            return load_checkpoint(self.model_file, self._kind)[1].get("round") == rounds
        except FedCoWProError:
            return False

    def _round_folder(self, number: int) -> Path:
        return self._rounds / f"round_{number:04d}"

    def _check_settings(self, digest: str) -> None:
        before = self.record()["config_digest"]
        if before != digest:
            raise FedCoWProError(
                f"settings of digest {digest}; the run in {self.path} has {before}",
                "the settings that the run was started with",
                f"resume with {self.config_file}, or choose another folder",
            )

    def _check_releases(self, config: ExperimentConfig) -> None:
        counted, done = len(self.releases.rates()), self.completed()
        if config.federation.privacy.mechanism != "none" and counted < done:
            raise FedCoWProError(
                f"{self.path}: {done} rounds, and a record of {counted} releases (releases.jsonl)",
                "a release for each round at least, or nobody knows what privacy has cost",
                "bring the file back, or start a new run in another folder",
            )

    def _check_same(self, digest: str, sites: Mapping[str, Mapping[str, Any]], absent: frozenset[str]) -> None:
        self._check_settings(digest)
        record = self.record()
        then = {name: site["digest"] for name, site in record["sites"].items()}
        now = {name: site["digest"] for name, site in sites.items()}
        late = (now.keys() - then.keys()) & set(record.get("expected", ()))
        names = (now.keys() | then.keys()) - absent - late
        if odd := sorted(name for name in names if now.get(name) != then.get(name)):
            raise FedCoWProError(
                f"sites {odd} are not as they were when the run in {self.path} started",
                "the same sites with the same prepared data",
                "bring the folders back, or choose another folder for a new run",
            )
