"""Addresses of objects (gs://, s3://, az://, http://): their store, patience, and errors.

Credentials, regions and endpoints come from the environment, as obstore reads them.
"""

import functools
import logging
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from active_learning.config import ConfigError
from active_learning.storage.errors import MissingError, StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LOG = logging.getLogger("active_learning")
BUCKETS = ("gs", "s3", "az")
PATIENCE = 600.0  # seconds from the first failure of an operation to giving up
LONGEST_PAUSE = 20.0
_QUIET = 30.0  # seconds between two lines that say that a server fails
_warned_at: dict[str, float] = {}  # server or bucket: when a line said so last

_ADDRESS = re.compile(r"(gs|s3|az|https?)://([^/?#]+)/*(.*)", re.IGNORECASE | re.DOTALL)
# Within one attempt, obstore repeats a request with backoff and jitter after 408, 429, 5xx, resets
# and timeouts. What it does not repeat, as a list whose body breaks off, `retried` does.
_RETRY = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}
# Plain HTTP is spoken only to an endpoint that the environment names so.
_CLIENT = {"allow_http": True, "connect_timeout": "5s", "read_timeout": "60s", "timeout": "5min"}
# To learn whether a bucket's credentials can be had at all. Where the metadata server's packets are
# dropped, obstore waits a second a try; Google's server has two addresses.
_LOGIN_RETRY = _RETRY | {"retry_timeout": timedelta(milliseconds=1400)}
_LOGIN_CLIENT = _CLIENT | {"connect_timeout": "2s", "read_timeout": "1500ms", "timeout": "1500ms"}
_VARIABLES = "see docs/running.md, 'A run folder in a bucket', for the variables that are read"
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_BODY = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")
# What only requests for credentials have in the first line of their error.
_LOGIN = (
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "/latest/api/token",
    "/latest/meta-data/",
    "token request",
    "oauth2",
)

_P = ParamSpec("_P")
_T = TypeVar("_T")


def kind_of(address: str) -> str | None:
    """Returns "gs", "s3", "az", "http" or "https"; None for anything else, as a local path."""
    match = _ADDRESS.fullmatch(address)
    return match and match[1].lower()


def is_bucket(address: str) -> bool:
    """Whether an address is in a bucket, which can be listed and written."""
    return kind_of(address) in BUCKETS


def store_of(address: str) -> tuple["ObjectStore", str]:
    """Opens the bucket or server of an address; contacts nothing.

    Returns:
      The store, one for each bucket, and the object's path in it, without a slash at either end.

    Raises:
      ConfigError: Not an address of these kinds, obstore is missing, or the environment lacks what
        this kind needs.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(f"{address!r}: expected gs://, s3:// or az://BUCKET/PATH, or http(s)://")
    return _store(_root(match)), match[3].strip("/")


def _root(match: re.Match[str]) -> str:
    return f"{match[1].lower()}://{match[2]}"


@functools.lru_cache(maxsize=64)
def _store(root: str, login: bool = False) -> "ObjectStore":
    try:
        import obstore
        from obstore.store import from_url
    except ImportError as error:
        raise ConfigError(f"{root}: needs obstore, pip install -e '.[buckets]'") from error
    retry, client = (_LOGIN_RETRY, _LOGIN_CLIENT) if login else (_RETRY, _CLIENT)
    try:
        return from_url(root, retry_config=retry, client_options=client)  # pyright: ignore
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigError(f"{root}: {reason(error)}; {_VARIABLES}") from error


def check_login(address: str) -> None:
    """Asks a bucket once, within seconds, whether there are credentials for it.

    Other failures say nothing here: they may pass, and the next operation meets them.

    Raises:
      ConfigError: None are in the environment, and no server of the machine gives any.
    """
    match = _ADDRESS.fullmatch(address)
    if match is not None and match[1].lower() in BUCKETS:
        _login(_root(match))


@functools.lru_cache(maxsize=64)
def _login(root: str) -> None:
    import obstore

    store = _store(root, login=True)
    try:
        obstore.head(store, "commit.json")
    except Exception as error:
        if not _of_store(error):
            raise
        if _is_login(error):
            raise refusal(root, error) from error


def retried(address: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Calls an operation of obstore until it succeeds, fails for good, or PATIENCE is over.

    Transient are 408, 429, 5xx, connections that are refused or reset, and timeouts. `function`
    must do the whole work again when it is called again.

    Args:
      address: The object, for messages.
      function: What to call.
      *args: Its arguments.
      **kwargs: Its arguments.

    Raises:
      MissingError: No such object or bucket.
      ConfigError: Refused for good, as 403; names the object.
      StorageError: Still failing after PATIENCE.
    """
    check_login(address)
    began = pause = None
    while True:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not _of_store(error):
                raise
            now = time.monotonic()
            began = now if began is None else began
            if not is_transient(error):
                raise refusal(address, error) from error
            if now - began >= PATIENCE:
                raise StorageError(
                    f"{address}: {reason(error)}; gave up after {PATIENCE / 60:.3g} minutes. "
                    "Run the same command again"
                ) from error
            if pause is None and _is_news(address, now):
                LOG.warning(
                    "%s: %s; trying again for up to %.3g minutes",
                    address,
                    reason(error),
                    PATIENCE / 60,
                )
            pause = min(LONGEST_PAUSE, 2 * (pause or 0.25))
            time.sleep(min(random.uniform(pause / 2, pause), max(0.0, began + PATIENCE - now)))


def _is_news(address: str, now: float) -> bool:
    """Whether to say that a server fails: once a while, not once for each of many threads."""
    server = address[: address.find("/", address.find("://") + 3)]
    if now < _warned_at.get(server, -_QUIET) + _QUIET:
        return False
    _warned_at[server] = now
    return True


def _of_store(error: Exception) -> bool:
    """Whether an exception comes from obstore, which answers 404 with FileNotFoundError."""
    from obstore.exceptions import BaseError

    return isinstance(error, BaseError | FileNotFoundError | ConnectionError | TimeoutError)


def is_transient(error: Exception) -> bool:
    """Whether the same operation may succeed later."""
    from obstore import exceptions

    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, exceptions.BaseError) and not isinstance(error, exceptions.GenericError):
        return False  # denied, not authenticated, precondition, not supported
    text = str(error)
    if (status := _STATUS.search(text)) is not None:
        code = int(status[1][:3])
        return code in (408, 429) or code >= 500
    if _is_login(error):
        return False  # no server gives credentials here; obstore has asked several times
    return isinstance(error, ConnectionError | TimeoutError) or "HTTP error" in text


def _is_login(error: Exception) -> bool:
    """Whether credentials could not be had, whatever the bucket would have said."""
    first = str(error).partition("\n")[0]
    return any(word in first for word in _LOGIN)


def refusal(address: str, error: Exception) -> ConfigError:
    """Returns the error to raise for what fails for good: one line that names the object."""
    why = reason(error)
    if isinstance(error, FileNotFoundError) or why.startswith("404"):
        return MissingError(f"{address}: not there ({why})")
    if _is_login(error):
        return ConfigError(f"{address}: no credentials ({why}); {_VARIABLES}")
    return ConfigError(f"{address}: {why}")


def reason(error: BaseException) -> str:
    """What a server or the network said, in a few words: "403 Forbidden, AccessDenied"."""
    text = str(error).partition("\n\nDebug source")[0]
    if (status := _STATUS.search(text)) is not None:
        body = _BODY.search(text)
        said = [status[1], *(part for part in (body.groups() if body else ()) if part)]
        return " ".join(", ".join(part.strip() for part in said).split())
    line = " ".join(text.split())
    return line.rpartition(" - ")[2].removeprefix("HTTP error: ") or type(error).__name__
