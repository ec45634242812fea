"""The guard before Dagster's and MLflow's pages: whom it lets in, by which header, and that no route is left out."""

from __future__ import annotations

import json
import urllib.parse

import dagster as dg
import pytest

CHANGE = 'mutation { setConcurrencyLimit(concurrencyKey: "attacked", limit: 1) }'
JSON = {"Content-Type": "application/json"}
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:3000",
        "localhost.:3000",
        "127.0.0.1",
        "127.0.0.2:8080",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:3000",
        "pages.example.com",
        "Pages.Example.Com:443",
        "tight.example.com:8443",
    ],
)
def test_the_pages_answer_under_their_own_names(served, host: str):
    assert served.ask(headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "tight.example.com",
        "[::2]",
    ],
)
def test_a_name_that_is_made_to_point_here_is_refused_with_the_setting_that_allows_it(served, host: str):
    for path in ("/server_info", "/graphql", "/"):
        answered = served.ask(path=path, headers={"Host": host})
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        assert answered.status == 403
        assert f"do not answer as '{host}'" in answered.text and f"ML_PIPELINE_ALLOWED_HOSTS={name}" in answered.text


@pytest.mark.parametrize(
    "host", ["", "me@localhost", "localhost:3000:1", "http://localhost", "[::1", "[evil]", "a b", "*"]
)
def test_a_host_header_that_is_no_name_is_refused(served, host: str):
    assert served.ask(headers={"Host": host}).status == 400


def test_no_host_header_or_two_of_them_are_refused(served):
    assert served.ask(headers=[("Accept", "*/*")]).status == 400
    assert served.ask(headers=[("Host", served.own), ("Host", "evil.example")]).status == 400


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "Forwarded", "X-Forwarded-Server", "X-Original-Host"])
def test_what_a_request_says_of_a_proxy_is_not_believed(served, header: str):
    value = f"host={served.own}" if header == "Forwarded" else served.own
    assert served.ask(headers={"Host": "evil.example", header: value}).status == 403


def test_a_target_with_a_scheme_does_not_replace_the_host_header(served):
    target = f"http://{served.own}/server_info"
    assert served.ask(path=target, headers={"Host": "evil.example"}).status == 403
    scope = {"type": "http", "method": "GET", "path": target, "query_string": b"", "headers": [(b"host", b"localhost")]}
    assert "is not a path" in served.app.refusal(scope).message


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://evil@127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}, http://evil.example",
        "file://127.0.0.1:{port}",
        "127.0.0.1:{port}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(served, origin: str, method: str):
    origin = origin.format(port=served.port)
    body = json.dumps({"query": CHANGE}).encode() if method == "POST" else b""
    answered = served.ask(method, "/graphql", {"Origin": origin, **JSON}, body)
    assert answered.status == 403
    assert f"A page of '{origin}' may not ask '{served.own}'" in answered.text
    assert "access-control-allow-origin" not in answered.headers
    assert served.limits() == set()


def test_of_two_origins_the_foreign_one_counts(served):
    own = [("Host", served.own), ("Origin", f"http://{served.own}")]
    assert served.ask(headers=own).status == 200
    assert served.ask(headers=[*own, ("Origin", "http://evil.example")]).status == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("pages.example.com", "https://pages.example.com"),
        ("pages.example.com:443", "https://pages.example.com"),
        ("pages.example.com", "http://pages.example.com:80"),
        ("tight.example.com:8443", "https://tight.example.com:8443"),
        ("[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_the_pages_own_origin_is_known_behind_a_proxy_that_ends_tls(served, host: str, origin: str):
    assert served.ask(headers={"Host": host, "Origin": origin}).status == 200


def test_an_origin_whose_default_port_is_another_is_another(served):
    assert served.ask(headers={"Host": "pages.example.com:443", "Origin": "http://pages.example.com"}).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "anything"])
def test_what_the_browser_calls_another_site_is_refused_without_an_origin_too(served, site: str):
    for method, path in (("GET", "/server_info"), ("POST", "/report_asset_materialization/attacked"), ("GET", "/")):
        assert served.ask(method, path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}).status == 403
    assert served.instance.get_latest_materialization_event(dg.AssetKey("attacked")) is None


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_pages_themselves_and_typed_addresses_are_answered(served, site: str):
    assert served.ask(headers={"Sec-Fetch-Site": site}).status == 200


def test_programs_which_no_browser_steers_are_answered(served):
    assert served.ask().status == 200
    reported = served.ask("POST", "/report_asset_materialization/reported")
    assert reported.status == 200
    assert served.instance.get_latest_materialization_event(dg.AssetKey("reported")) is not None


def test_a_link_elsewhere_opens_a_page_but_sends_no_form_and_fills_no_frame(served):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.ask(path="/runs", headers=link).status == 200
    assert served.ask("POST", "/report_asset_materialization/attacked", link).status == 403
    for frame in ("iframe", "frame", "object", "embed"):
        assert served.ask(path="/runs", headers=link | {"Sec-Fetch-Dest": frame}).status == 403


@pytest.mark.parametrize("path", ["/", "/server_info", "/graphql", "/no/such.js", "/logs/no/such.out"])
def test_no_answer_can_be_framed_or_embedded_elsewhere_or_taken_for_another_type(served, path: str):
    for headers in ({}, {"Origin": "http://evil.example"}):
        answered = served.ask(path=path, headers=headers).headers
        assert answered["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in answered["content-security-policy"]
        assert answered["x-content-type-options"] == "nosniff"
        assert answered["cross-origin-resource-policy"] == "same-origin"


GRAPHQL = json.dumps({"query": CHANGE}).encode()
ASKED = f"/graphql?{urllib.parse.urlencode({'query': CHANGE})}"
FORM = urllib.parse.urlencode({"query": CHANGE}).encode()
TYPES = [
    "text/plain",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]
TYPES += ["application/graphql", "application/jsonp", "Application/JSON", "text/plain, application/json", ""]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_graphql_by_get_is_refused_with_the_remedy_to_programs_too(served, method: str):
    for query in (CHANGE, "{ version }", "query Q { version } " + CHANGE):
        answered = served.ask(method, f"/graphql?{urllib.parse.urlencode({'query': query})}")
        assert (answered.status, answered.headers["allow"]) == (405, "POST")
        if method == "GET":
            assert "Send it by POST as application/json" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


@pytest.mark.parametrize("content_type", TYPES)
def test_graphql_of_another_content_type_is_refused_with_the_remedy(served, content_type: str):
    for path, body in (("/graphql", GRAPHQL), (ASKED, b""), (ASKED, FORM), ("/graphql/", GRAPHQL)):
        answered = served.ask("POST", path, {"Content-Type": content_type} if content_type else {}, body)
        assert answered.status == 415
        assert "Send it as application/json" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


def test_two_content_types_are_refused(served):
    headers = [("Host", served.own), ("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert served.ask("POST", "/graphql", headers, GRAPHQL).status == 415


@pytest.mark.parametrize("body", [b"[%b]" % GRAPHQL, b" \r\n\t[%b]" % GRAPHQL, [b" ", b"\n", b"[", GRAPHQL, b"]"]])
def test_a_list_of_operations_is_refused_with_the_remedy(served, body: bytes | list[bytes]):
    answered = served.ask("POST", "/graphql", JSON, body)
    assert answered.status == 400
    assert "Send each operation in its own POST" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


@pytest.mark.parametrize("content_type", ["application/json", "application/json ; charset=utf-8"])
@pytest.mark.parametrize("padding", [0, 300_000])
def test_graphql_by_post_as_json_arrives_whole(served, content_type: str, padding: int):
    body = json.dumps({"query": "{ arrived: __typename }", "variables": {"padding": "x" * padding}}).encode()
    pieces = [b" " * (padding + 1), *(body[start : start + 70_000] for start in range(0, len(body), 70_000))]
    for sent in (body, pieces):
        answered = served.ask("POST", "/graphql", {"Content-Type": content_type}, sent)
        assert json.loads(answered.text)["data"] == {"arrived": "Query"}


def test_a_mutation_by_post_as_json_still_works(served):
    own = {"Origin": f"http://{served.own}", "Sec-Fetch-Site": "same-origin", **JSON}
    assert served.ask("POST", "/graphql", own, GRAPHQL.replace(b"attacked", b"by hand")).status == 200
    assert served.limits() == {"by hand"}
    served.instance.event_log_storage.delete_concurrency_limit("by hand")


def test_a_web_socket_opens_for_the_pages_and_for_programs(served):
    assert served.ask(path="/graphql", headers=HANDSHAKE).status == 101
    own = {"Origin": f"http://{served.own}", "Sec-Fetch-Site": "same-origin"}
    assert served.ask(path="/graphql", headers=HANDSHAKE | own).status == 101


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_a_web_socket_does_not_open_for_another_site(served, headers: dict[str, str]):
    answered = served.ask(path="/graphql", headers=HANDSHAKE | headers)
    assert answered.status == 403
    assert "errors" in json.loads(answered.text)
