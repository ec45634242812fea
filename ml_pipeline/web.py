"""Protects every web application that this project starts from the pages of other sites.

A browser sends requests to this machine on behalf of every page that it shows, which allows two attacks. In cross-site
request forgery, a page of another site sends a request that changes something; the headers ``Origin`` and
``Sec-Fetch-Site`` reveal it. In DNS rebinding, the name of another site points at this machine, so that the browser
treats both as the same site; the ``Host`` header reveals it. Programs such as curl send neither ``Origin`` nor
``Sec-Fetch-Site`` and are accepted, since other sites do not control them. The guard does not replace a login.

A new application uses it once::

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
    """The status and message of a refused request; the message contains the remedy."""

    status: int
    message: str


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application behind a guard that accepts only requests to its own names, from its own pages or programs."""
    return OriginGuard(app, allowed_addresses(settings))


def allowed_addresses(settings: Settings) -> frozenset[hosts.Address]:
    """The names under which the pages may be opened; a name without a port allows all ports."""
    names = (*hosts.LOOPBACK_NAMES, settings.page_host, *settings.allowed_hosts)
    return frozenset(address for address in map(hosts.parse, names) if address is not None)


class OriginGuard:
    """ASGI middleware that refuses requests of other sites' pages, over HTTP and WebSocket."""

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
        """The refusal of the first rule that a request breaks, None if it breaks none."""
        if not scope["path"].startswith("/"):
            return Refusal(
                400, f"The target {_shown([scope['path']])} is not a path. Ask for one that begins with '/'."
            )
        return self._wrong_host(scope) or self._other_site(scope) or _wrong_graphql(scope)

    def _wrong_host(self, scope: Scope) -> Refusal | None:
        # X-Forwarded-Host is ignored: the sender of the request can set it.
        given = _header(scope, b"host")
        address = hosts.parse(given[0]) if len(given) == 1 else None
        if address is None:
            return Refusal(400, f"The request needs exactly one Host header with a valid name, got {_shown(given)}.")
        if address.is_loopback or {address, hosts.Address(address.name)} & self.allowed:
            return None
        return Refusal(
            403,
            f"These pages do not answer as {_shown(given)}. To allow this name, start them with "
            f"ML_PIPELINE_ALLOWED_HOSTS={address.in_url}",
        )

    def _other_site(self, scope: Scope) -> Refusal | None:
        host = _header(scope, b"host")[0]
        for origin in _header(scope, b"origin"):
            if not _same_origin(origin, host):
                return Refusal(
                    403,
                    f"A page of {_shown([origin])} may not ask {_shown([host])}. Open these pages under "
                    "one address; a reverse proxy must forward the browser's Host header.",
                )
        sites = _header(scope, b"sec-fetch-site")
        # A page of another site may open a whole page, as by a link in a mail; frames and sent forms are no links.
        if {*sites} <= {"same-origin", "none"} or (
            scope.get("method") in READING
            and _header(scope, b"sec-fetch-mode") == ["navigate"]
            and _header(scope, b"sec-fetch-dest") == ["document"]
        ):
            return None
        return Refusal(
            403,
            f"A page of another site may not send this request (Sec-Fetch-Site: {_shown(sites)}). From other sites, "
            "open these pages by a link.",
        )


def _same_origin(origin: str, host: str) -> bool:
    """Whether ``Origin`` ("null" for sandboxed pages and files) and ``Host`` name the same site."""
    scheme, _, rest = origin.lower().partition("://")
    page, asked = hosts.parse(rest), hosts.parse(host)
    if scheme not in _DEFAULT_PORTS or page is None or asked is None:
        return False
    # A proxy may end TLS, so the default port is that of the page's scheme.
    port = _DEFAULT_PORTS[scheme]
    return (page.name, page.port or port) == (asked.name, asked.port or port)


def _is_graphql(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.rstrip("/").endswith("/graphql")


def _wrong_graphql(scope: Scope) -> Refusal | None:
    """Accept GraphQL by POST as JSON only, which a page can send to another site only with that site's consent.

    A query string is refused without being parsed, since Dagster might parse it differently.
    """
    if not _is_graphql(scope) or scope["type"] != "http":
        return None
    if scope["method"] in READING and scope["query_string"]:
        return Refusal(405, f"GraphQL is not answered to {scope['method']}. Send it by POST as application/json.")
    if scope["method"] != "POST":
        return None
    given = _header(scope, b"content-type")
    # The type must match exactly: "text/plain; application/json" needs no consent, but Dagster reads it as JSON. It
    # must be in lower case: for "Application/JSON", Dagster reads the query string instead.
    if [value.partition(";")[0].strip() for value in given] != ["application/json"]:
        return Refusal(415, f"GraphQL is not answered to content type {_shown(given)}. Send it as application/json.")
    return None


async def _refuse_batch(receive: Receive) -> tuple[Refusal | None, Receive]:
    """A refusal if the body is a JSON list, and a ``receive`` that gives the application the whole body."""
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
        return Refusal(400, "A list of GraphQL operations is not answered. Send each operation in its own POST."), again
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
    """A warning if the pages are reachable from other machines, otherwise None."""
    address = hosts.parse(settings.host)
    if address is not None and address.is_loopback:
        return None
    return (
        f"WARNING: ML_PIPELINE_HOST={settings.host} opens Dagster's pages (port {settings.dagster_port}) and MLflow's "
        f"(port {settings.mlflow_port}) to all machines that can reach this one. They have no login: every visitor can "
        "start and stop runs, read the data of all tenants, and delete models. Remedy: unset ML_PIPELINE_HOST and "
        'put a reverse proxy with authentication in front (docs/how-to/operate.md, "Show the pages to others").'
    )
