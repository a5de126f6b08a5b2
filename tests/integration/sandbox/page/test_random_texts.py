"""Random texts in all fields, and random forms: the page shows them, runs nothing, and has no internal error."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.sandbox import Sandbox
from mr_celery.sandbox.page import text
from mr_celery.sandbox.routing import NoEligibleWorkerError
from mr_celery.sandbox.values import clean_text
from support.fuzzing import examples
from support.login import log_in
from support.safe_html import assert_safe, elements

PAYLOADS = (
    "<script>window.owned=1</script>",
    "</script><script>window.owned=1</script>",
    "<ScRiPt/src=//evil.example>",
    "<img src=x onerror=window.owned=1>",
    "<svg/onload=window.owned=1>",
    "<svg><animate onbegin=window.owned=1 attributeName=x>",
    "<math><a xlink:href=javascript:window.owned=1>x</a></math>",
    "<iframe srcdoc='<script>parent.owned=1</script>'>",
    "<object data=javascript:window.owned=1>",
    "<embed src=javascript:window.owned=1>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=javascript:window.owned=1'>",
    "<link rel=stylesheet href=//evil.example>",
    "<style>@import '//evil.example'</style>",
    "<form action=//evil.example><button>",
    "<a href=javascript:window.owned=1>x</a>",
    "<body onpageshow=window.owned=1>",
    "<!--><img src=x onerror=window.owned=1>-->",
    "<![CDATA[<img src=x onerror=window.owned=1>]]>",
    "<?php x ?>",
    '" onmouseover="window.owned=1',
    "' onfocus='window.owned=1' autofocus='",
    "` onclick=window.owned=1 x=`",
    '"><svg onload=window.owned=1>',
    "'><details open ontoggle=window.owned=1>",
    "</textarea></title></pre></select><img src=x onerror=window.owned=1>",
    "\x00<scr\x00ipt>window.owned=1</scr\x00ipt>",
    "&lt;script&gt;window.owned=1&lt;/script&gt;",
    "&#60;img src=x onerror=window.owned=1&#62;",
    "\u202e<b>\u2066",
    "[x](javascript:window.owned=1)",
    "[x](JaVaScRiPt&colon;window.owned=1)",
    "[x](java\tscript:window.owned=1)",
    "[x](\x01javascript:window.owned=1)",
    "[x](vbscript:x) [y](data:text/html,<script>) [z](file:///etc/passwd)",
    "[x](//evil.example) [y](/\\evil.example) [z](\\\\evil.example)",
    "![x](javascript:window.owned=1) ![y](//evil.example/x.png)",
    '![x](https://evil.example/x.png "onerror=window.owned=1")',
    "[x](https://a.example 'y\" onclick=\"window.owned=1')",
    '<javascript:window.owned=1> <https://a.example/" onclick=window.owned=1>',
    "[x]: javascript:window.owned=1\n\n[x] ![x]",
    "| a | b |\n| :-: | --: |\n| <script>x</script> | [x](javascript:x) |",
    "```html onclick=x\n<script>window.owned=1</script>\n```",
    '~~~"><script>\nx\n~~~',
    "# <img src=x onerror=window.owned=1>\n\n> <svg onload=x>",
    "{{ 1234567 * 891 }}{% include '/etc/passwd' %}${1234567*891}#{1234567*891}<%= 1234567*891 %>",
    "javascript:window.owned=1",
    "data:text/html,<script>window.owned=1</script>",
    "/\\evil.example",
    'https://evil.example/" onclick="window.owned=1',
    "\r\nSet-Cookie: a=b\r\n\r\n<script>window.owned=1</script>",
    "../../../../etc/passwd\x00.png",
)
TEXTS = st.lists(st.sampled_from(PAYLOADS) | st.text(max_size=6), min_size=1, max_size=3).map("".join).filter(str.strip)

MARKS = st.sampled_from(
    [
        *list("[]()!<>*_`~#|-+:\\\"'&;=\n\t /"),
        "](",
        "![",
        "javascript:",
        "JAVASCRIPT&colon;",
        "https://",
        "data:",
        "&#x6a;",
        "vbscript:",
        "x",
        "<a ",
        " onclick=x ",
        "/s/" + "0" * 40,
        "\u202e",
        "&quot;",
        "&lt;script&gt;",
        "%22",
        "\x00",
        "\x01",
    ]
)


@examples(800)
@given(source=st.lists(MARKS | st.sampled_from(PAYLOADS) | st.text(max_size=3), max_size=25).map("".join))
def test_random_markdown_is_safe(source: str) -> None:
    assert_safe(text.markdown(clean_text(source)))


class Client(requests.Session):
    """A logged-in browser without scripts, and a client of the API."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.trust_env = False
        self.token = sandbox.token
        link = urlsplit(sandbox.login_link())
        self.base = f"{link.scheme}://{link.netloc}"
        self.pages = log_in(self, link.geturl())
        assert self.cookies

    def address(self, path: str) -> str:
        return self.pages + path.removeprefix("/ui") if path.startswith("/ui/") else self.base + path

    def page(self, path: str, **options: Any) -> requests.Response:
        return self.get(self.address(path), timeout=60, headers={"Accept": "text/html"}, **options)

    def act(self, path: str, **options: Any) -> requests.Response:
        headers = {
            "Accept": "text/html",
            "Origin": self.base,
            "Sec-Fetch-Site": "same-origin",
            **options.pop("headers", {}),
        }
        return self.post(self.address(path), timeout=60, headers=headers, allow_redirects=False, **options)

    def api(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return self.request(method, self.base + path, timeout=60, headers=headers, **options)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Sandbox() as sandbox, Client(sandbox) as client:
        client.sandbox = sandbox  # type: ignore[attr-defined]
        yield client


def assert_page_is_safe(answer: requests.Response) -> None:
    assert answer.status_code < 500, answer.text[:500]
    policy = answer.headers["Content-Security-Policy"]
    found = re.search("script-src 'nonce-([^']+)'", policy)
    assert found is not None
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert_safe(answer.text, found[1])
    assert "1099999197" not in answer.text


def fill(client: Client, attack: str) -> int:
    """Create a job with the text in every field that users, jobs and workers can set. Returns its id."""
    store = client.sandbox.store  # type: ignore[attr-defined]
    attack = clean_text(attack)
    requires = {"capability": attack, "capabilities": [attack, {"name": attack}], "tags": [attack]}
    fields = {"priority": attack, attack: attack, "input": {attack: [attack]}, "model": attack, **requires}
    job_id = int(store.dispatch(attack, attack, fields)["id"])
    store.claim(job_id, attack)
    artifact = {"content_type": "image/png", "filename": attack, "job_id": job_id, "expires_at": None}
    slug = store.add_artifact(io.BytesIO(b"x"), artifact)["slug"]
    for kind in ("text/plain", "text/html", "application/pdf", "video/mp4", "image/svg+xml", attack):
        store.add_artifact(io.BytesIO(attack.encode()), {**artifact, "content_type": kind, "expires_at": attack})
    review = dict.fromkeys(("type", "title", "content", "preview", "target", "created_by"), attack)
    for preview in (attack, slug, f"https://x/{attack}"):
        store.add_review({**review, "preview": preview, "job_id": job_id})
    store.decide(store.add_review({**review, "job_id": job_id})["id"], "rejected")
    store.report(dict.fromkeys(("instance", "status", "details", "tags", "provider", "worker_type"), attack))
    store.directory.register(f"{attack}.", attack, [{"name": attack, "risk_tier": "approve"}])
    with suppress(NoEligibleWorkerError):  # it compares names without the spaces around them
        store.dispatch(attack, f"{attack}.", {"capability": attack})
    return job_id


def assert_shown_safely(client: Client, attack: str) -> None:
    job_id = fill(client, attack)
    query = dict.fromkeys(("q", "worker", "status", "before", "after"), clean_text(attack))
    for path in ("/ui/jobs", "/ui/reviews", "/ui/workers", "/ui/faults", f"/ui/jobs?copy={job_id}"):
        assert_page_is_safe(client.page(path))
    assert_page_is_safe(client.page("/ui/jobs", params=query))
    store = client.sandbox.store  # type: ignore[attr-defined]
    results = (attack, json.dumps({attack: [attack]}), f"Traceback (most recent call last):\n{attack}")
    for result in map(clean_text, results):
        store.close_job(job_id, result, "done")
        assert_page_is_safe(client.page(f"/ui/jobs/{job_id}"))
        plain = client.page(f"/ui/jobs/{job_id}/result")
        assert plain.headers["Content-Type"].startswith("text/plain")
        assert plain.headers["X-Content-Type-Options"] == "nosniff"
        store.requeue(job_id)
        store.claim(job_id, clean_text(attack))
    store.close_job(job_id, "", "done")


@pytest.mark.parametrize("attack", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_in_all_fields_is_shown_safely(client: Client, attack: str) -> None:
    assert_shown_safely(client, attack)


@examples(8)
@given(attack=TEXTS)
def test_random_texts_in_all_fields_are_shown_safely(client: Client, attack: str) -> None:
    assert_shown_safely(client, attack)


PATHS = (
    *("/ui/dispatch", "/ui/jobs/1/abort", "/ui/jobs/1/requeue", "/ui/jobs/1/approve", "/ui/jobs/1/reject"),
    *("/ui/jobs/1/dispatch", "/ui/abort-all", "/ui/killswitch", "/ui/killswitch/clear", "/ui/workers/1/pause"),
    *(
        "/ui/workers/1/resume",
        "/ui/reviews/1/approve",
        "/ui/reviews/1/reject",
        "/ui/reviews/1/undo",
        "/ui/faults/preset",
        "/ui/faults/rule",
    ),
    *("/ui/faults/clear",),
)
FIELDS = st.sampled_from(
    [
        "prompt",
        "worker",
        "capability",
        "tags",
        "priority",
        "fields",
        "copies",
        "each_line",
        "level",
        "reason",
        "preset",
        "seconds",
        "fault",
        "after",
        "routes",
        "delay",
        "times",
        "status",
        "retry_after",
        "share",
        "token",
        "next",
    ]
)
VALUES = TEXTS | st.sampled_from(
    [
        "",
        "1",
        "-1",
        "0",
        "1e999",
        "nan",
        "9" * 30,
        "٣",
        "normal",
        "pause",
        "outage",
        "status",
        "drop",
        "inbox",
        "{}",
        "[",
        "503",
        '{"a": NaN}',
        '{"\\\\ud800": "\\\\udfff"}',
        '{"id": 1, "status": "done", "prompt": 7}',
        "[" * 2000,
    ]
)


@examples(100)
@given(path=st.sampled_from(PATHS), form=st.dictionaries(FIELDS, VALUES, max_size=6), files=st.booleans())
def test_random_forms_cause_no_internal_error(client: Client, path: str, form: dict[str, str], files: bool) -> None:
    fields = {name: clean_text(value) for name, value in form.items()}
    body: dict[str, Any] = (
        {"files": {name: (None, value) for name, value in fields.items()}} if files else {"data": fields}
    )
    answer = client.act(path, **body)
    assert answer.status_code < 500, answer.text[:500]
    if answer.status_code == 303:
        assert re.fullmatch(r"/(?![/\\])[!-~]*", answer.headers["Location"])
    elif answer.headers["Content-Type"].startswith("text/html"):
        assert_page_is_safe(answer)


BODIES = st.binary(max_size=80) | st.sampled_from(
    [
        b"--B\r\n\r\n",
        b"--B--",
        b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx',
        b"%",
        b"a=%ff&b",
        b"&" * 2000,
    ]
)
TYPES = st.sampled_from(
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=B",
        "multipart/form-data",
        "application/json",
        "",
        "multipart/form-data; boundary=" + "B" * 500,
        "multipart/form-data; boundary=B; charset=utf-7",
        "text/plain; charset=ÿ",
    ]
)


@examples(100)
@given(path=st.sampled_from([*PATHS, "/login"]), body=BODIES, kind=TYPES)
def test_random_bodies_cause_no_internal_error(client: Client, path: str, body: bytes, kind: str) -> None:
    answer = client.act(path, data=body, headers={"Content-Type": kind.encode("latin-1")})
    assert answer.status_code < 500, answer.text[:500]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | FIELDS, inner, max_size=3),
    max_leaves=5,
)
ROUTES = (
    *(
        ("PUT", "/presence"),
        ("POST", "/jobs/1/claim"),
        ("POST", "/jobs/1/close"),
        ("POST", "/review"),
        ("POST", "/dispatch"),
    ),
    *(
        ("POST", "/api/v1/workers/register"),
        ("POST", "/api/jobs"),
        ("PUT", "/api/jobs/1"),
        ("POST", "/api/jobs/1/cancel"),
    ),
    *(
        ("POST", "/api/jobs/1/retry"),
        ("POST", "/api/workers/1/pause"),
        ("GET", "/my-jobs"),
        ("GET", "/api/jobs"),
        ("PUT", "/x"),
    ),
)
NAMES = (
    *("instance", "status", "details", "tags", "worker", "result", "type", "title", "content", "preview", "target"),
    *("job_id", "prompt", "name", "description", "capabilities", "priority", "tier", "limit", "offset", "provider"),
)


@examples(100)
@given(route=st.sampled_from(ROUTES), body=JSON | st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_random_requests_of_the_api_cause_no_internal_error(client: Client, route: tuple[str, str], body: Any) -> None:
    sent: dict[str, Any] = {"data": json.dumps(body)}
    if route[0] == "GET":
        given_params = body.items() if isinstance(body, dict) else ()
        sent = {"params": {clean_text(name): clean_text(str(value)) for name, value in given_params}}
    answer = client.api(*route, **sent)
    assert answer.status_code < 500, answer.text[:500]
    assert answer.json() is not None


# -- artifacts ---------------------------------------------------------------------------------------------

CONTENT_TYPES = TEXTS | st.sampled_from(
    [
        "text/html",
        "image/svg+xml",
        "text/xml",
        "application/xhtml+xml",
        "text/javascript",
        "application/wasm",
        "image/png",
        "",
        "image/png;text/html",
        "image/png\t,text/html",
        "multipart/x-mixed-replace",
        "text/html; charset=utf-7",
        "*/*",
        "IMAGE/SVG",
    ]
)
PASSIVE = re.compile(r"(image/(?!svg)[^;]+|video/[^;]+|audio/[^;]+|application/pdf|text/plain)(;.*)?", re.IGNORECASE)


@examples(100)
@given(content_type=CONTENT_TYPES, filename=TEXTS)
def test_any_artifact_is_served_with_safe_headers(client: Client, content_type: str, filename: str) -> None:
    fields = {
        "content_type": clean_text(content_type),
        "filename": clean_text(filename),
        "job_id": None,
        "expires_at": None,
    }
    content = b"<script>top.owned=1</script>"
    kept = client.sandbox.store.add_artifact(io.BytesIO(content), fields)  # type: ignore[attr-defined]
    answer = requests.get(f"{client.base}/s/{kept['slug']}", timeout=60)
    assert (answer.status_code, answer.content) == (200, content)
    headers = answer.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert "allow-" not in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert re.fullmatch(
        r"(inline|attachment); filename\*=UTF-8''[\w.~%!*'()-]*", headers["Content-Disposition"], re.ASCII
    )
    assert headers["Content-Disposition"].startswith("attachment") or PASSIVE.fullmatch(headers["Content-Type"])
    assert "set-cookie" not in headers
    assert "location" not in headers


def test_the_check_of_the_html_finds_what_it_must() -> None:
    for html in (
        "<script>x</script>",
        "<a href=javascript:x>",
        "<img src=x>",
        "<p onclick=x>",
        "<a href=//x>",
        "<!-- x -->",
    ):
        with pytest.raises((AssertionError, KeyError)):
            assert_safe(html)
    assert elements('<a href="/x">y</a>') == [("a", {"href": "/x"})]
