"""Who may ask: bearer keys, an admin's keys beside them, and which web pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import ForbiddenError, InputError, NotFoundError, UnauthorizedError, UnderstudyError
from serve.responses import error_response

KEYS_VARIABLE, ADMIN_KEYS_VARIABLE = "UNDERSTUDY_KEYS", "UNDERSTUDY_ADMIN_KEYS"
# Shorter ones can be guessed.
_LEAST_CHARACTERS = 16
# What a load balancer asks, the page, which holds nothing and asks for a key itself, and the API's description.
_OPEN = frozenset(
    {"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}
)
_OPEN_BELOW = "/swagger/"
# In a request's scope.
_ADMIN = "understudy.admin"


@dataclass(frozen=True)
class AccessSettings:
    """Keys, and what browsers may do.

    Attributes:
        keys: that callers must show one of; none lets everyone in.
        admin_keys: that changing the server's models takes; without any, nobody may.
        origins: web pages from elsewhere that may ask, as `https://host`.
    """

    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in (*self.keys, *self.admin_keys):
            if len(key) < _LEAST_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"a key must have at least {_LEAST_CHARACTERS} characters, of ASCII and without spaces; "
                    f"`openssl rand -hex 32` makes one"
                )
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InputError(f"'{origin}' is no origin: write it as https://host[:port], or * for all")


def read_keys(path: Path | None, variable: str) -> tuple[str, ...]:
    """Keys from a file, one a line ('#' begins a comment), and from an environment variable, between white space.

    Raises:
        InputError: the file cannot be read, or holds no key.
    """
    keys = os.environ.get(variable, "").split()
    if path is not None:
        try:
            lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InputError(f"{path}: the keys cannot be read: {reason}") from None
        found = [line for line in lines if line]
        if not found:
            raise InputError(f"{path} holds no key")
        keys += found
    return tuple(dict.fromkeys(keys))


class Access:
    """Middleware that lets a request on if it may pass, and notes whether an admin sent it."""

    def __init__(self, app: ASGIApp, settings: AccessSettings):
        self._app = app
        self._keys = _digests(settings.keys)
        self._admin_keys = _digests(settings.admin_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.check(scope)
            except UnderstudyError as error:
                await error_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Lets the request on, and notes in its scope whether an admin sent it.

        Raises:
            UnauthorizedError: a key is needed, and none or a wrong one was shown.
            NotFoundError: no such path can be.
        """
        path = scope["path"]
        if not path.isprintable():
            raise NotFoundError("no route has control characters")
        given = _digest(_bearer(scope)) if self._keys or self._admin_keys else b""
        scope[_ADMIN] = _among(given, self._admin_keys)
        if not self._keys or scope[_ADMIN] or path in _OPEN or path.startswith(_OPEN_BELOW):
            return
        if not _among(given, self._keys):
            raise UnauthorizedError("a key is needed: send it as 'Authorization: Bearer KEY'")


def require_admin(scope: Scope, settings: AccessSettings) -> None:
    """Lets on only what an admin sent; for routes to ask, which know best what they are.

    Raises:
        ForbiddenError: no admin key was shown, or there is none.
    """
    if not settings.admin_keys:
        raise ForbiddenError("the server was started without admin keys, so nobody may change its models")
    if not scope.get(_ADMIN):
        raise ForbiddenError("this takes an admin key")


def _bearer(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = bytes(value).partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _digests(keys: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(_digest(key.encode()) for key in keys)


def _digest(key: bytes) -> bytes:
    # Of one length, so that comparing tells nothing of a key's.
    return hashlib.sha256(key).digest()


def _among(given: bytes, digests: Sequence[bytes]) -> bool:
    """Whether it is one of them, in a time that does not depend on which."""
    found = False
    for digest in digests:
        found |= hmac.compare_digest(given, digest)
    return found
