"""A job's page in a real browser: copying, neighbours, artifacts and the timeline."""

from __future__ import annotations

import io
import re
import zipfile

import pytest
import requests
from playwright.sync_api import expect

from mr_celery.demo.picture import paint
from mr_celery.sandbox import Sandbox
from support.browser import Visit
from support.login import log_in
from support.sandbox_example import upload


@pytest.mark.parametrize("secure", [True, False])
def test_copy_buttons(visit: Visit, sandbox: Sandbox, secure: bool) -> None:
    prompt, result = '\n  it\'s "quoted"\n', "x" * 200_001
    sandbox.dispatch(prompt, worker="w")
    sandbox.store.claim(1, "w")
    sandbox.store.close_job(1, result, "done")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.go("/ui/jobs/1")
    copied = "window.heard ?? navigator.clipboard.readText()"
    if not secure:  # as for a page from another machine without TLS
        page.evaluate(
            "document.addEventListener('copy', () => (window.heard = getSelection().toString()));"
            "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
        )
    for what, text in (("the job's id", "1"), ("the prompt", prompt), ("the result", result)):
        page.get_by_role("button", name=f"Copy {what}").click()
        expect(page.locator("#said")).to_have_text(f"Copied {what}")
        if secure or what == "the job's id":
            assert page.evaluate(copied) == text
    page.get_by_role("button", name="Copy the command with mr-celery").click()
    expect(page.locator("#said")).to_have_text("Copied the command with mr-celery")
    if secure:
        assert (
            page.evaluate(copied)
            == f"""mr-celery -A "${{APP:-proj}}" dispatch --url {sandbox.url} --name w '
  it'"'"'s "quoted"
'"""
        )
        assert sandbox.token not in page.content()


def test_neighbours_in_the_filtered_list(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(1, 8):
        sandbox.dispatch(f"number {number}", worker="v" if number % 2 else "w")
    page = visit.go("/ui/jobs?worker=v")
    page.locator("#job-5 td.id a").click()
    expect(page.locator("#job-id")).to_have_text("5")
    visit.live()
    for key, job in (("j", "3"), ("j", "1"), ("k", "3"), ("k", "5"), ("k", "7")):
        page.keyboard.press(key)
        expect(page.locator("#job-id")).to_have_text(job)
        visit.live()
    page.keyboard.press("k")
    expect(page.locator("#said")).to_have_text("This is the first job of the list.")
    page.get_by_role("link", name="Jobs that match the filter").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(4)


def test_pictures_at_full_size(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.dispatch("p", worker="w")
    for number in (1, 2):
        upload(sandbox.store, 1, f"{number}.png", "image/png", paint(str(number), size=64))
    upload(sandbox.store, 1, "data.bin", "application/octet-stream", b"x")
    page = visit.go("/ui/jobs/1")
    expect(page.locator(".file.other .suffix")).to_have_text("bin")
    page.locator("a.zoom").first.focus()
    page.keyboard.press("Enter")
    picture = page.locator("dialog.zoomed")
    expect(picture.locator("p")).to_have_text("1 of 2 · 1.png")
    page.keyboard.press("ArrowRight")
    expect(picture.locator("p")).to_have_text("2 of 2 · 2.png")
    expect(picture.get_by_role("button", name="Next")).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    expect(picture.locator("img")).to_have_attribute("alt", "1.png")
    page.keyboard.press("Escape")
    expect(picture).to_be_hidden()
    expect(page.locator("a.zoom").first).to_be_focused()


def test_timeline_is_live_and_has_local_times(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.dispatch("p", worker="w")
    page = visit.go("/ui/jobs/1")
    sandbox.store.claim(1, "w")
    upload(sandbox.store, 1, "notes.txt", "text/plain", b"1234")
    sandbox.store.close_job(1, "", "done")
    moments = page.locator(".moments li")
    expect(moments.locator(".what")).to_have_text(["dispatched", "claimed", "uploaded", "done"])
    expect(moments.nth(2).locator(".details")).to_have_text("notes.txt 4 B")
    expect(moments.nth(3).locator("time")).to_have_text(re.compile(r"\d\d:\d\d:\d\d\.\d\d\d"))
    expect(moments.nth(3).locator(".later")).to_have_text(re.compile(r"\+\d+ ms|\+\d\.\d s"))


def test_all_artifacts_are_one_zip_file(sandbox: Sandbox) -> None:
    sandbox.dispatch("p", worker="w")
    for name, data in (("a.txt", b"1"), ("../a.txt", b"2"), ("large.bin", bytes(3_000_000))):
        upload(sandbox.store, 1, name, "text/plain", data)
    upload(sandbox.store, 1, "old.txt", "text/plain", b"3", expires_at="2020-01-01")
    sandbox.store.artifact(upload(sandbox.store, 1, "gone.txt", "text/plain", b"4"))["path"].unlink()
    with requests.Session() as session:
        pages = log_in(session, sandbox.login_link())
        answer = session.get(f"{pages}/jobs/1/artifacts.zip", timeout=30)
        assert answer.headers["Content-Disposition"] == "attachment; filename=job-1-artifacts.zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert {each.filename: each.file_size for each in archive.infolist()} == {
                "a.txt": 1,
                "a (2).txt": 1,
                "large.bin": 3_000_000,
            }
        assert session.get(f"{pages}/jobs/2/artifacts.zip", timeout=30).status_code == 404
    assert requests.get(f"{sandbox.url}/ui/jobs/1/artifacts.zip", timeout=30).status_code == 401
