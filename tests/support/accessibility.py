"""Checks the accessibility of pages with axe-core."""

from __future__ import annotations

from functools import cache
from importlib import resources

from playwright.sync_api import Page

_CHECK = """(rules) => axe.run(document, {
    iframes: false, resultTypes: ["violations"], ...(rules ? {runOnly: {type: "rule", values: rules}} : {}),
})"""


@cache
def _axe() -> str:
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def problems_of(page: Page, name: str) -> list[str]:
    """Check what a page shows now, in a wide and a narrow window, light and dark.

    Only colours differ between light and dark, so only these are checked in both.
    """
    size = page.viewport_size
    page.evaluate(_axe())
    problems: list[str] = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 850})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            found = page.evaluate(_CHECK, ["color-contrast"] if scheme == "dark" else None)
            problems += [
                f"{name}, {width} px, {scheme}: {rule['help']} ({rule['id']}): {node['html'][:200]}"
                for rule in found["violations"]
                for node in rule["nodes"]
            ]
    if size is not None:
        page.set_viewport_size(size)
    return problems
