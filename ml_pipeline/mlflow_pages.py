"""MLflow's server as ``ml-pipeline up`` runs it: behind ``ml_pipeline.web``, and without hints for first visitors.

It is registered as an ``mlflow.app``. MLflow shows new visitors a promotion of its registry, an assistant, and a note
about telemetry, which is off. Only the browser's local storage can switch these off, so a script in the page sets the
keys that the visitor has not set. MLflow's own checks trust all pages of this machine, whatever their port;
``ml_pipeline.web`` does not.
"""

from __future__ import annotations

import json
from typing import cast

from mlflow.server.fastapi_app import app as mlflow_app
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ml_pipeline import web
from ml_pipeline.settings import load_settings

SEEN_BEFORE = {
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.home.getting-started.collapsed_v1": True,
    "mlflow.settings.telemetry.enabled_v1": False,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
    "mlflow.workflowType_v1": "machine_learning",
}
SCRIPT = (
    "<script>for (const [key, value] of Object.entries("
    + json.dumps({key: json.dumps(value) for key, value in SEEN_BEFORE.items()})
    + ")) if (localStorage.getItem(key) === null) localStorage.setItem(key, value)</script>"
)


async def as_on_a_second_visit(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Insert the script at the start of the HTML page."""
    response = await call_next(request)
    if request.url.path != "/" or response.status_code != 200:
        return response
    chunks = [chunk async for chunk in cast(StreamingResponse, response).body_iterator]
    page = b"".join(chunk.encode() if isinstance(chunk, str) else chunk for chunk in chunks)
    headers = {name: value for name, value in response.headers.items() if name not in ("content-length", "etag")}
    return Response(page.replace(b"<head>", b"<head>" + SCRIPT.encode(), 1), response.status_code, headers)


mlflow_app.add_middleware(BaseHTTPMiddleware, dispatch=as_on_a_second_visit)
app = web.guarded(mlflow_app, load_settings())
