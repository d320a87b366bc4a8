"""A site's part of secure aggregation (`privacy.masking`): keys, shares, a masked update, shares again.

The secrets of a round live in the context's state until the site has told its shares, which it does once; a new round
throws away what was left of another. The site trusts the server to follow the protocol and to pass on the public keys
unchanged, but checks what it can: its own keys come back, no name twice, enough sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.privacy.masking import (
    FEWEST,
    SECRET_BYTES,
    Secrets,
    agree,
    own_mask,
    pair_masks,
    public_key,
    seal,
    split,
    unseal,
)
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
    """
    state = _state(context, question, _SHARED)
    site, names = str(state["site"]), _names(question)
    publics = dict(zip(_texts(state, "names"), _blobs(state, "keys"), strict=True))
    unknown = set(names) - set(publics)
    _require(
        not unknown and site in names, f"shares of {sorted(unknown)} and none for itself", "the sites of this round"
    )
    _enough(len(names), state)
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
            records.ROUND: int(str(question[records.ROUND])),
            "mask": secrets.mask,
            "key": secrets.key,
            "channel": secrets.channel,
            **keys,
        }
    )
    return ConfigRecord(dict(keys))


def _share(question: ConfigRecord, context: Context) -> ConfigRecord:
    """Shares of the own secrets, sealed for each other site."""
    state = _state(context, question, _OFFERED)
    site, names = str(state["site"]), _names(question)
    keys, channels = _blobs(question, "keys"), _blobs(question, "channels")
    threshold = int(str(question["threshold"]))
    state["threshold"], state["names"], state["keys"], state["channels"] = threshold, names, keys, channels
    _require(len({*names}) == len(names) == len({*keys}) == len({*channels}), "names or keys twice", "each site once")
    own = site in names and (keys[names.index(site)], channels[names.index(site)])
    _require(own == (state["public-key"], state["public-channel"]), "other keys in its name", "its own keys unchanged")
    _require(2 * threshold > len(names), f"a threshold of {threshold} for {len(names)} sites", "more than half")
    _enough(len(names), state)
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
    return ConfigRecord({"sealed": sealed})


def _unmask(question: ConfigRecord, context: Context) -> ConfigRecord:
    """One share of each site's secrets: of its mask if it answered, of its key if not; then forget all.

    Where a site sealed what cannot be opened, its share is empty: the server then says so of that site.
    """
    state = _state(context, question, _ANSWERED)
    del context.state[records.SECURE]
    site, answered, present = str(state["site"]), set(_names(question)), _texts(state, "present")
    _require(answered <= set(present) and site in answered, "sites that were not in this round", "those that were")
    _enough(len(answered), state)
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


def _enough(count: int, state: ConfigRecord) -> None:
    fewest = max(FEWEST, int(str(state["threshold"])))
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
