"""Configuration of the documentation site: `make docs` builds it without a network."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "ml-pipeline"
author = "The ml-pipeline authors"
copyright = f"2026, {author}"
release = version = importlib.metadata.version("ml-pipeline")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "click_text",
    "generated_reference",
    "inline_svg",
    "offline",
    "undocumented",
]
exclude_patterns = ["_build"]

# Warnings are errors, so a broken reference fails the build. Types of other packages have no pages here.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!ml_pipeline\b).*")]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
python_maximum_signature_line_length = 90
# Pages list their objects; autosummary generates no files.
autosummary_generate = False
numpydoc_show_class_members = False

highlight_language = "none"  # most blocks are commands; others name their language

html_theme = "pydata_sphinx_theme"
html_title = "ml-pipeline"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "ml-pipeline"},
    "navigation_with_keys": True,
    "header_links_before_dropdown": 5,
    "show_toc_level": 2,
    "navigation_depth": 3,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# Pages without subpages need no navigation at the left.
html_sidebars = {
    page: []
    for page in (
        "index",
        "getting-started",
        "concepts",
        "architecture/index",
        "benchmarks",
        "contributing",
        "changelog",
    )
}
