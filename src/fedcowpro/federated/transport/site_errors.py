"""What a site says about a failure: the reason, without the paths of its own machine.

Everything that a handler of the ClientApp raises goes to the server as text. File names and folders of a hospital's
machine are none of its business, so they are taken out; the site's own log keeps the whole error.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable

from flwr.app import Context, Message

from fedcowpro.core.errors import FedCoWProError

Handler = Callable[[Message, Context], Message]
HIDDEN = "<path>"
# An absolute path of either system, or one below the home folder: quoted, with whatever is in the quotes; else up to a
# blank or punctuation. What follows a blank in an unquoted path is lost to this rule, so `private` goes first.
_QUOTED = re.compile(r"""(['"`])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^'"`\n]*\1""")
_BARE = re.compile(r"""(?<![\w.<>/:-])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s'"`,;:()<>\[\]]+(?::(?=[\w\\/])[^\s,;()]*)?""")


class SiteError(Exception):
    """A failure at a site in words that may leave it."""


def without_paths(text: str, private: tuple[str, ...] = ()) -> str:
    """The text with every absolute path replaced.

    Args:
        private: texts to take out wherever they stand, the longest first; say the site's folder, which may have blanks.
    """
    for known in sorted((one for one in private if len(one) > 1), key=len, reverse=True):
        text = text.replace(known, HIDDEN)
    text = re.sub(rf"{re.escape(HIDDEN)}[\\/][^\s'\"`,;:()]*", HIDDEN, text)
    return _BARE.sub(HIDDEN, _QUOTED.sub(HIDDEN, text))


def sanitised(handler: Handler) -> Handler:
    """A handler of a ClientApp whose errors name no path; a user's mistake stays one."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except SiteError:
            raise
        except Exception as error:
            private = (str(context.node_config.get("site-path", "")),)
            if isinstance(error, FedCoWProError):
                parts = (without_paths(part, private) for part in (error.got, error.expected, error.remedy))
                raise FedCoWProError(*parts) from error
            logging.getLogger(__name__).error("a message of the server failed here", exc_info=True)
            raise SiteError(f"{type(error).__name__}: {without_paths(str(error), private)}") from error

    return answer
