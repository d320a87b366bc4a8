"""All sites in one process: a Flower grid without Ray, daemon or network.

Touches Flower's internals: `TaskIdentity` (every new `Message` reads it) and `Run` (in the signature of `Grid`). So do
`deployment.supernode_client` and `deployment.superlink_client`, and no other module.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.governance.enforcement import NO_POLICY, POLICY
from fedcowpro.federated.transport.site_errors import SiteError

_RUN_ID = 1
_SERVER_NODE = 1
_CLIENT_RAISED = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class InProcessGrid(Grid):
    """Runs a ClientApp for each site, one after the other, in the calling thread.

    An exception of a client becomes an error reply, as over a network. A KeyboardInterrupt passes through.

    Args:
        client_app: the app of every site.
        nodes: configuration of each site by its name; a site without a policy has none, not the default one.
        on_reply: told the site's name and its reply as soon as it is there.
    """

    def __init__(
        self,
        client_app: ClientApp,
        nodes: Mapping[str, UserConfig],
        on_reply: Callable[[str, Message], None] | None = None,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = _RUN_ID, 1, _SERVER_NODE
        self._app, self._on_reply = client_app, on_reply
        self._run = Run.create_empty(_RUN_ID)
        self._sites = dict(enumerate(sorted(nodes), start=_SERVER_NODE + 1))
        self._contexts = {
            node: Context(_RUN_ID, node, {POLICY: NO_POLICY, **nodes[site]}, RecordDict(), {})
            for node, site in self._sites.items()
        }
        self._sent = 0
        self._replies: dict[str, Message] = {}

    def site_states(self) -> dict[str, RecordDict]:
        """State that each site keeps, by the site's name; live objects, to be read or filled on resuming."""
        return {site: self._contexts[node].state for node, site in self._sites.items()}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs the clients at once; the replies wait to be pulled."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies to `messages`, each client run when its reply is taken; `timeout` has no meaning in one thread."""
        for message in messages:
            yield self._replies.pop(self._deliver(message))

    def _deliver(self, message: Message) -> str:
        self._sent += 1
        key = f"message-{self._sent}"
        site = self._sites[message.metadata.dst_node_id]
        own = _private_copy(message)
        try:
            reply = self._app(own, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            # A user's mistake says all in its message; anything else is a fault of the program: show where, once.
            level = logging.DEBUG if isinstance(error, FedCoWProError | SiteError) else logging.ERROR
            logging.getLogger(__name__).log(level, "site '%s' failed", site, exc_info=True)
            reply = Message(Error(_CLIENT_RAISED, f"{type(error).__name__}: {error}"), reply_to=own)
        self._replies[key] = reply
        if self._on_reply is not None:
            self._on_reply(site, reply)
        return key


def _private_copy(message: Message) -> Message:
    """The message with records of its own, because clients may change them. The arrays' bytes are shared."""
    content = RecordDict(
        {
            name: ArrayRecord(dict(record)) if isinstance(record, ArrayRecord) else copy.deepcopy(record)
            for name, record in message.content.items()
        }
    )
    meta = message.metadata
    return Message(content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)
