"""The guard of every web application that this project starts: it keeps out the pages of other sites.

A browser sends requests to this machine for any page that it shows. Two attacks follow. A page of another site sends
a request that changes something (cross-site request forgery): the headers ``Origin`` and ``Sec-Fetch-Site`` give that
away. Or the other site's name is made to point at this machine (DNS rebinding), so that the browser takes both for one
site: the ``Host`` header gives that away. Programs such as curl send neither ``Origin`` nor ``Sec-Fetch-Site`` and are
let in, since no other site steers them. So the guard does not replace a login.

A new application names it once::

    app = web.guarded(FastAPI(), settings)
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_pipeline import hosts
from ml_pipeline.settings import Settings

_log = logging.getLogger(__name__)

READING = ("GET", "HEAD")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in, and what to do about it."""

    status: int
    message: str


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """An application that answers only under its own names and only its own pages, and programs."""
    return OriginGuard(app, allowed_addresses(settings))


def allowed_addresses(settings: Settings) -> frozenset[hosts.Address]:
    """Under which names the pages may be opened; a name without a port stands for all of its ports."""
    names = (*hosts.LOOPBACK_NAMES, settings.page_host, *settings.allowed_hosts)
    return frozenset(address for address in map(hosts.parse, names) if address is not None)


class OriginGuard:
    """ASGI middleware that refuses what a page of another site asks, over HTTP and WebSocket alike."""

    def __init__(self, app: ASGIApp, allowed: Iterable[hosts.Address]) -> None:
        self.app = app
        self.allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is None and _is_graphql(scope) and scope.get("method") == "POST":
            refusal, receive = await _refuse_batch(receive)
        if refusal is None:
            await self.app(scope, receive, _with_security_headers(send))
            return
        _log.warning("Refused %s %.200r: %s", scope.get("method", "WebSocket"), scope["path"], refusal.message)
        await _answer(scope, refusal)(scope, receive, _with_security_headers(send))

    def refusal(self, scope: Scope) -> Refusal | None:
        """The first rule that a request breaks, None where it may come in."""
        if not scope["path"].startswith("/"):
            return Refusal(
                400, f"The target {_shown([scope['path']])} is not a path. Ask for one that begins with '/'."
            )
        return self._wrong_host(scope) or self._other_site(scope) or _wrong_graphql(scope)

    def _wrong_host(self, scope: Scope) -> Refusal | None:
        # X-Forwarded-Host is not looked at: whoever sends the request can write it.
        given = _header(scope, b"host")
        address = hosts.parse(given[0]) if len(given) == 1 else None
        if address is None:
            return Refusal(400, f"Exactly one Host header with a name is needed, got {_shown(given)}. Send one.")
        if address.is_loopback or {address, hosts.Address(address.name)} & self.allowed:
            return None
        return Refusal(
            403,
            f"These pages do not answer as {_shown(given)}. If they should, add the name where they are started: "
            f"ML_PIPELINE_ALLOWED_HOSTS={address.in_url}",
        )

    def _other_site(self, scope: Scope) -> Refusal | None:
        host = _header(scope, b"host")[0]
        for origin in _header(scope, b"origin"):
            if not _same_origin(origin, host):
                return Refusal(
                    403,
                    f"A page of {_shown([origin])} may not ask {_shown([host])}: only its own pages may. Open these "
                    "pages under one address; a reverse proxy must pass the Host header of the browser on.",
                )
        sites = _header(scope, b"sec-fetch-site")
        if {*sites} <= {"same-origin", "none"} or _is_link(scope):
            return None
        return Refusal(
            403,
            f"A page of another site may not ask this (Sec-Fetch-Site: {_shown(sites)}): only these pages may. "
            "From elsewhere, open them by a link.",
        )


def _same_origin(origin: str, host: str) -> bool:
    """Whether an ``Origin`` ("null" for sandboxed pages and files) is the site that a ``Host`` header names."""
    scheme, _, rest = origin.lower().partition("://")
    page, asked = hosts.parse(rest), hosts.parse(host)
    if scheme not in _DEFAULT_PORTS or page is None or asked is None:
        return False
    # A proxy may end TLS, so the page's own scheme says which port is meant where none is written.
    port = _DEFAULT_PORTS[scheme]
    return (page.name, page.port or port) == (asked.name, asked.port or port)


def _is_link(scope: Scope) -> bool:
    """Whether the browser opens a whole page, as for a link in a mail; frames and forms that are sent are not links."""
    return (
        scope.get("method") in READING
        and _header(scope, b"sec-fetch-mode") == ["navigate"]
        and _header(scope, b"sec-fetch-dest") == ["document"]
    )


def _is_graphql(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.rstrip("/").endswith("/graphql")


def _wrong_graphql(scope: Scope) -> Refusal | None:
    """GraphQL comes by POST as JSON, which no page can send to another site without that site's consent.

    What a query string holds is not read, so that nobody can disagree with Dagster on how to read it.
    """
    if not _is_graphql(scope) or scope["type"] != "http":
        return None
    if scope["method"] in READING and scope["query_string"]:
        return Refusal(405, f"GraphQL is not answered to {scope['method']}. Send it by POST as application/json.")
    if scope["method"] != "POST":
        return None
    given = _header(scope, b"content-type")
    # Compared as a whole: "text/plain; application/json" needs no consent, and Dagster takes it for JSON. And in lower
    # case: where it says "Application/JSON", Dagster reads the query string instead.
    if [value.partition(";")[0].strip() for value in given] != ["application/json"]:
        return Refusal(415, f"GraphQL is not answered to content type {_shown(given)}. Send it as application/json.")
    return None


async def _refuse_batch(receive: Receive) -> tuple[Refusal | None, Receive]:
    """A refusal where the body is a JSON list; and what the application then receives, which is all of the body."""
    held: list[Message] = []
    start, more = b"", True
    while more and not start:
        message = await receive()
        held.append(message)
        start = message.get("body", b"").lstrip().removeprefix(codecs.BOM_UTF8).lstrip()
        more = message.get("more_body", False)

    async def again() -> Message:
        return held.pop(0) if held else await receive()

    if start.startswith(b"["):
        return Refusal(400, "A list of GraphQL operations is not answered. Send each by a POST of its own."), again
    return None, again


def _answer(scope: Scope, refusal: Refusal) -> Response:
    headers = {"Allow": "POST"} if refusal.status == 405 else None
    if _is_graphql(scope):
        return JSONResponse({"errors": [{"message": refusal.message}]}, refusal.status, headers)
    return PlainTextResponse(refusal.message + "\n", refusal.status, headers)


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            # A second policy narrows the application's own; browsers obey both.
            headers.append("Content-Security-Policy", "frame-ancestors 'self'")
        await send(message)

    return sending


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _shown(values: list[str]) -> str:
    return ", ".join(f"{value[:200]!r}" for value in values[:3]) or "none"


def exposure_warning(settings: Settings) -> str | None:
    """What stands open where the pages listen on more than this machine itself, None where they do not."""
    address = hosts.parse(settings.host)
    if address is not None and address.is_loopback:
        return None
    return (
        f"WARNING: ML_PIPELINE_HOST={settings.host} opens Dagster's pages (port {settings.dagster_port}) and MLflow's "
        f"(port {settings.mlflow_port}) to every machine that reaches this one. Neither has a login: whoever comes can "
        "start and stop runs, read what is kept of every tenant, and delete models. Remedy: unset ML_PIPELINE_HOST and "
        'put a reverse proxy with authentication in front (docs/how-to/operate.md, "Show the pages to others").'
    )
