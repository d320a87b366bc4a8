"""A site's part of secure aggregation (`privacy.masking`): keys, shares, a masked update, shares again.

The secrets of a round live in the context's state until the site has told its shares, which it does once; a new round
throws away what was left of another. Where the site's policy names its peers, the server is not trusted with the public
keys: all sites sign the list that they were given, with the keys that they sign in with, and the masked update leaves
only if each site in the sum is such a peer and signed the same list. Without that, a server can invent sites and take
their parts out of the sum. In any case the site checks that its own keys come back, no name twice, enough sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import FEWEST_IN_A_SUM
from fedcowpro.config.policy import SitePolicy
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import printable
from fedcowpro.federated.governance.enforcement import SITE_KEY, policy_of
from fedcowpro.federated.governance.policy import RefusedError
from fedcowpro.federated.privacy.masking import (
    SECRET_BYTES,
    Secrets,
    agree,
    commitment,
    no_smaller_sum,
    own_mask,
    pair_masks,
    public_key,
    seal,
    split,
    unseal,
)
from fedcowpro.federated.privacy.signing import is_signed, read_private_key, round_statement, sign
from fedcowpro.federated.transport import messages as records

_OFFERED, _SHARED, _ANSWERED = "offered", "shared", "answered"


def add_queries(app: ClientApp) -> None:
    """Let a site answer the three questions of secure aggregation."""
    handlers = {
        records.SECURE_KEYS: _offer_keys,
        records.SECURE_SHARES: _share,
        records.SECURE_UNMASK: _unmask,
    }
    for name, handler in handlers.items():
        app.query(name)(_answer(handler))


def mask(words: np.ndarray, question: ConfigRecord, context: Context) -> np.ndarray:
    """The site's words under its masks, uint32; `question` has the other sites' sealed shares.

    Raises:
        FedCoWProError: out of turn, or too few sites.
        RefusedError: a site in the sum is not one of the policy's peers, or has not signed the list of keys.
    """
    state = _state(context, question, _SHARED)
    site, names = str(state["site"]), _names(question)
    publics = dict(zip(_texts(state, "names"), _blobs(state, "keys"), strict=True))
    fit = {*names} <= {*publics} and site in names and len({*names}) == len(names)
    _require(fit, f"shares of {_listed(names)}", "sites of this round, each once, and itself among them")
    policy = policy_of(context)
    _enough(len(names), state, policy)
    if policy.peers:
        _require_signatures(policy, state, question, names)
    secret = {name: publics[name] for name in names if name != site}
    seed, own = _blob(state, "key"), _blob(state, "mask")
    state["present"], state["sealed"], state["phase"] = names, _blobs(question, "sealed"), _ANSWERED
    return words + own_mask(own, len(words)) + pair_masks(site, seed, secret, len(words))


def _offer_keys(question: ConfigRecord, context: Context) -> ConfigRecord:
    secrets = Secrets.fresh()
    keys = {"public-key": public_key(secrets.key), "public-channel": public_key(secrets.channel)}
    context.state[records.SECURE] = ConfigRecord(
        {
            "site": str(context.node_config["site-name"]),
            "phase": _OFFERED,
            records.RUN: str(question.get(records.RUN, "")),
            records.ROUND: int(str(question[records.ROUND])),
            "mask": secrets.mask,
            "key": secrets.key,
            "channel": secrets.channel,
            **keys,
        }
    )
    return ConfigRecord({**keys, "commitment": commitment(secrets.mask)})


def _share(question: ConfigRecord, context: Context) -> ConfigRecord:
    """Shares of the own secrets, sealed for each other site, and the signature under the list of all keys."""
    state = _state(context, question, _OFFERED)
    site, names = str(state["site"]), _names(question)
    keys, channels = _blobs(question, "keys"), _blobs(question, "channels")
    threshold = int(str(question["threshold"]))
    state["threshold"], state["names"], state["keys"], state["channels"] = threshold, names, keys, channels
    _require(len({*names}) == len(names) == len({*keys}) == len({*channels}), "names or keys twice", "each site once")
    own = site in names and (keys[names.index(site)], channels[names.index(site)])
    _require(own == (state["public-key"], state["public-channel"]), "other keys in its name", "its own keys unchanged")
    policy = policy_of(context)
    _enough(len(names), state, policy)
    if policy.peers and (strange := sorted({*names} - {site, *policy.peers})):
        raise RefusedError(f"{_listed(strange)} would be in the sum, and the site's policy does not name them as peers")
    most = f"a threshold that tells no sum of fewer than {_fewest(policy)}"
    told = f"a threshold of {threshold} for {len(names)} sites"
    _require(threshold <= len(names) and no_smaller_sum(threshold, len(names), _fewest(policy)), told, most)
    pieces = zip(
        split(_blob(state, "mask"), threshold, len(names)),
        split(_blob(state, "key"), threshold, len(names)),
        strict=True,
    )
    sealed = []
    for name, channel, (of_mask, of_key) in zip(names, channels, pieces, strict=True):
        if name == site:
            state["own-shares"] = of_mask + of_key
            sealed.append(b"")
        else:
            key = agree(_blob(state, "channel"), channel, _purpose(question, site, name))
            sealed.append(seal(key, of_mask + of_key))
    state["phase"] = _SHARED
    return ConfigRecord({"sealed": sealed, **_signature(state, context)})


def _unmask(question: ConfigRecord, context: Context) -> ConfigRecord:
    """One share of each site's secrets: of its mask if it answered, of its key if not; then forget all.

    Where a site sealed what cannot be opened, its share is empty: the server then says so of that site.
    """
    state = _state(context, question, _ANSWERED)
    del context.state[records.SECURE]
    site, answered, present = str(state["site"]), set(_names(question)), _texts(state, "present")
    _require(answered <= set(present) and site in answered, "sites that were not in this round", "those that were")
    _enough(len(answered), state, policy_of(context))
    channels = dict(zip(_texts(state, "names"), _blobs(state, "channels"), strict=True))
    shares = []
    for name, sealed in zip(present, _blobs(state, "sealed"), strict=True):
        if name == site:
            both = _blob(state, "own-shares")
        else:
            both = _opened(agree(_blob(state, "channel"), channels[name], _purpose(question, name, site)), sealed)
        shares.append(both[:SECRET_BYTES] if name in answered else both[SECRET_BYTES:])
    return ConfigRecord({"of": present, "shares": shares})


def _opened(key: bytes, sealed: bytes) -> bytes:
    try:
        return unseal(key, sealed)
    except ValueError:
        return b""


def _answer(handler: Callable[[ConfigRecord, Context], ConfigRecord]) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        found = handler(records.config_record(message.content, records.CONFIG), context)
        return Message(RecordDict({records.CONFIG: found}), reply_to=message)

    return answer


def _state(context: Context, question: ConfigRecord, phase: str) -> ConfigRecord:
    state = records.config_record(context.state, records.SECURE)
    now, wanted = (state.get("phase"), state.get(records.ROUND)), (phase, question.get(records.ROUND))
    _require(now == wanted, f"a message for {wanted} in the state {now}", "the messages of a round in their order")
    return state


def _signature(state: ConfigRecord, context: Context) -> dict[str, bytes]:
    """The site's signature under the list of keys, where the site has a key."""
    file = context.node_config.get(SITE_KEY)
    if file is None:
        return {}
    return {records.SIGNATURE: sign(read_private_key(Path(str(file))), str(state["site"]), _statement(state))}


def _require_signatures(policy: SitePolicy, state: ConfigRecord, question: ConfigRecord, names: list[str]) -> None:
    given = dict(zip(names, _blobs(question, records.SIGNATURES), strict=False))
    statement = _statement(state)
    unsigned = [
        name
        for name in names
        if name != state["site"] and not is_signed(policy.peers.get(name, ""), name, statement, given.get(name, b""))
    ]
    if unsigned:
        raise RefusedError(
            f"{_listed(unsigned)} would be in the sum without a signature under this round's keys by the key that the "
            "site's policy has for them (peers)"
        )


def _statement(state: ConfigRecord) -> bytes:
    number, threshold = int(str(state[records.ROUND])), int(str(state["threshold"]))
    names, keys, channels = _texts(state, "names"), _blobs(state, "keys"), _blobs(state, "channels")
    return round_statement(str(state[records.RUN]), number, threshold, names, keys, channels)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"site '{printable(name)}'" for name in names)


def _fewest(policy: SitePolicy) -> int:
    return max(FEWEST_IN_A_SUM, policy.min_participants)


def _enough(count: int, state: ConfigRecord, policy: SitePolicy) -> None:
    fewest = max(_fewest(policy), int(str(state["threshold"])))
    _require(count >= fewest, f"{count} sites in the sum", f"{fewest} or more")


def _require(good: object, got: str, expected: str) -> None:
    if not good:
        raise FedCoWProError(f"secure aggregation: {got}", expected, "start the round again; ask the coordinator why")


def _purpose(question: ConfigRecord, sender: str, receiver: str) -> str:
    return f"share/{int(str(question[records.ROUND]))}/{sender}/{receiver}"


def _names(record: ConfigRecord) -> list[str]:
    return _texts(record, "names")


def _texts(record: ConfigRecord, name: str) -> list[str]:
    found = record.get(name)
    return [str(text) for text in found] if isinstance(found, Sequence) and not isinstance(found, str | bytes) else []


def _blobs(record: ConfigRecord, name: str) -> list[bytes]:
    found = record.get(name)
    return [blob for blob in found if isinstance(blob, bytes)] if isinstance(found, list) else []


def _blob(record: ConfigRecord, name: str) -> bytes:
    found = record[name]
    assert isinstance(found, bytes)
    return found
