"""Who may ask: bearer keys, an admin's keys beside them, and which web pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import ForbiddenError, InputError, UnauthorizedError, UnderstudyError
from serve.responses import error_response

KEYS_VARIABLE, ADMIN_KEYS_VARIABLE = "UNDERSTUDY_KEYS", "UNDERSTUDY_ADMIN_KEYS"
# Shorter ones can be guessed.
_LEAST_CHARACTERS = 16
# What a load balancer asks, and the page, which holds nothing and asks for a key itself.
_OPEN = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})


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
            if origin != "*" and not origin.startswith(("http://", "https://")):
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
    """Middleware that lets a request on if it may pass."""

    def __init__(self, app: ASGIApp, settings: AccessSettings):
        self._app = app
        self._keys = _digests(settings.keys)
        self._admin_keys = _digests(settings.admin_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (self._keys or _is_for_admins(scope)):
            try:
                self._check(scope)
            except UnderstudyError as error:
                response = error_response(error, scope["path"])
                if error.status == 401:
                    response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in _OPEN:
            return
        given = _digest(_bearer(scope))
        admin = _among(given, self._admin_keys)
        if _is_for_admins(scope):
            if not self._admin_keys:
                raise ForbiddenError("the server was started without admin keys, so nobody may change its models")
            if not admin:
                known = _among(given, self._keys)
                raise ForbiddenError("this takes an admin key") if known else UnauthorizedError("this takes a key")
        elif not admin and not _among(given, self._keys):
            raise UnauthorizedError("a key is needed: send it as 'Authorization: Bearer KEY'")


def _is_for_admins(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" and path.startswith("/v2/repository/models/") and path.endswith("/load")


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
