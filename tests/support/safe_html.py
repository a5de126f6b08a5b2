"""Checks that the HTML of the sandbox's page runs nothing and leads nowhere unexpected, whatever texts it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_HARMLESS = re.compile(r"https?://|mailto:|#|\?|/(?![/\\])", re.IGNORECASE)
_OWN_PATH = re.compile(r"/(?![/\\])")
_FOREIGN = re.compile(r"/s/[\w-]{40}")
_LINKING = ("action", "background", "cite", "data", "formaction", "href", "manifest", "ping", "poster", "src", "srcset")
_REFUSED = ("applet", "base", "embed", "frame", "math", "noscript", "object", "portal", "style", "template")


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_comment(self, data: str) -> None:
        raise AssertionError("the page has a comment")

    def handle_pi(self, data: str) -> None:
        raise AssertionError("the page has a processing instruction")


def elements(html: str) -> list[tuple[str, dict[str, str]]]:
    """All elements with their attributes, in order."""
    parser = _Elements()
    parser.feed(html)
    parser.close()
    return parser.found


def assert_safe(html: str, nonce: str = "") -> None:
    """Check a page, or a part of one.

    Args:
        html: the HTML.
        nonce: the nonce of the page's own scripts and styles.
    """
    for tag, attributes in elements(html):
        shown = f"<{tag} {attributes}>"
        assert tag not in _REFUSED, shown
        assert not any(name.startswith(("on", "style", "srcdoc")) or ":" in name for name in attributes), shown
        if tag in ("script", "link"):
            assert nonce, shown
            assert attributes.get("nonce") == nonce or attributes.get("rel") == "icon", shown
        if tag == "meta":
            assert attributes.keys() <= {"charset", "name", "content"}, shown
        if tag in ("iframe", "img", "audio", "video", "source"):
            source = attributes["src"].removesuffix("#toolbar=0&navpanes=0&view=FitH" if tag == "iframe" else "")
            assert _FOREIGN.fullmatch(source), shown
        for name in _LINKING:
            if name in attributes and tag not in ("script", "link"):
                assert _HARMLESS.match(attributes[name]), shown
        if attributes.get("target") == "_blank":
            assert "noopener" in attributes["rel"], shown
        if tag == "form":
            assert _OWN_PATH.match(attributes.get("action", "/")), shown
