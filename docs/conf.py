"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import get_node_source

from mr_celery import __version__
from mr_celery.cli.modelreins import SETTING_FLAGS
from mr_celery.settings import options

project = "mr-celery"
author = "the authors of mr-celery"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_static"]

copybutton_prompt_text = "$ "  # of a block with commands and their output, only the commands are copied
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a part of the README begins with a heading of its third level

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_custom_sections = [("Attributes", "params_style")]
# Names of other libraries, and those of ours that no page shows: nothing is fetched to build the pages.
nitpick_ignore_regex = [
    ("py:.*", r"(?!mr_celery\.).*"),
    ("py:class", r"mr_celery\.(?!\w+$).*"),
]

html_theme = "furo"
html_title = "mr-celery"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def described_settings() -> str:
    """Every setting, as Markdown."""
    parts = []
    for option in options():
        names = [f"`{option.configuration}` in Celery's configuration"]
        if option.name in (*SETTING_FLAGS, "http"):
            names.append(f"`--{option.name.replace('_', '-')}` as a flag")
        default = f":default: `{option.default}`\n" if option.default else ""
        head = f"````{{confval}} {option.environment}\n:type: {option.allowed}\n{default}"
        parts.append(f"{head}\n{option.about}\n\n{'; '.join(names)}.\n````\n")
    return "\n".join(parts)


def fill_in(_: Sphinx, page: str, source: list[str]) -> None:
    """What a page has from the code."""
    if page == "settings":
        source[0] = source[0].replace("<!-- settings -->", described_settings())


INCLUDED = {"SECURITY.md": "/security", "CONTRIBUTING.md": "/contributing", "CHANGELOG.md": "/changelog"}
"""Files of the repository that a page includes."""


class RepositoryLinks(SphinxPostTransform):
    """Links that are good where the repository is browsed: to files that pages include, and to folders.

    Of a link to a folder, only its text is kept.
    """

    default_priority = 8  # before MyST looks for what is linked

    def run(self, **_: Any) -> None:
        for link in list(self.document.findall(pending_xref)):
            page = Path(get_node_source(link) or ".")
            if link["reftype"] != "myst":
                continue
            if link["reftarget"] in INCLUDED:
                link.update_all_atts(
                    {"refdomain": "std", "reftype": "doc", "reftarget": INCLUDED[link["reftarget"]]}, replace=True
                )
            elif (page.parent / link["reftarget"]).is_dir():
                link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    app.add_post_transform(RepositoryLinks)
    app.connect("source-read", fill_in)
