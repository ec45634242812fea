"""The documentation names what exists, its reference follows the code, and its pages load nothing from elsewhere."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [*PAGES, PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"]


def extension(name: str):
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


reference, offline = extension("generated_reference"), extension("offline")


def relative(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["click_text", "generated_reference", "offline", "undocumented"])
def test_the_examples_in_the_extensions_of_the_site_hold(name):
    assert doctest.testmod(extension(name)).failed == 0


def named_in_the_pages(pattern: str) -> set[tuple[str, str]]:
    """Where each match of the pattern's group stands: page and match."""
    return {
        (relative(path), match) for path in TEXTS for match in re.findall(pattern, path.read_text(encoding="utf-8"))
    }


def test_every_link_to_a_file_leads_to_one():
    links = {(path, link) for path in TEXTS for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(path)) if link}
    missing = [
        (relative(path), link) for path, link in links if "://" not in link and not (path.parent / link).exists()
    ]
    assert links and missing == []


def test_every_path_of_the_project_that_a_page_names_exists():
    named = named_in_the_pages(r"`((?:ml_pipeline|tests|docs|benchmarks|examples)/[\w./-]*(?:/|\.\w+))`")
    assert named and [(page, name) for page, name in named if not (PROJECT / name).exists()] == []


def test_every_benchmark_that_a_page_names_is_a_module():
    named = named_in_the_pages(r"\bbenchmarks\.(?!md\b)(\w+)")
    assert (
        named and [(page, name) for page, name in named if not (PROJECT / "benchmarks" / f"{name}.py").is_file()] == []
    )


def test_every_setting_that_a_page_names_exists():
    known = {row.name for row in reference.settings_rows(Settings)}
    named = named_in_the_pages(r"\b(ML_PIPELINE_[A-Z_]+[A-Z]|DATABASE_URL|DAGSTER_HOME)\b")
    assert named and [(page, name) for page, name in named if name not in known] == []


def test_every_page_is_reached_from_the_first():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
            names = re.findall(r"^(?:.*<)?([\w/-]+)>?$", block, re.MULTILINE)
            below = {page.parent / f"{name}.md" for name in names}
            waiting += [found for found in below - reached if found.exists()]
    assert set(PAGES) - reached == set()


def test_decisions_are_numbered_without_gaps_dated_and_have_the_same_headings():
    records = [path for path in sorted((DOCS / "adr").glob("*.md")) if path.name != "index.md"]
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"# {path.name[:4]}: .+\n\nAccepted on \d{{4}}-\d\d-\d\d\.\n", text), path
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Measured consequence"], path


class Described(BaseModel):
    """A settings class as it is now: the description begins with the variable."""

    workers: int = Field(2, ge=1, description="ML_PIPELINE_WORKERS. Worker processes of one run.")
    level: Literal["LOW", "HIGH"] | None = Field(None, description="ML_PIPELINE_LEVEL. From this level on.")
    home: Path = Field(PROJECT / ".local", description="ML_PIPELINE_HOME. What is kept.")


class Prefixed(BaseModel):
    """A settings class as pydantic-settings has it: variables by prefix, some by alias."""

    model_config = ConfigDict(env_prefix="ML_PIPELINE_")  # type: ignore[typeddict-unknown-key]

    workers: int = Field(2, description="Worker processes of one run.")
    database_url: str | None = Field(None, validation_alias="DATABASE_URL", description="Any PostgreSQL.")


def test_a_new_setting_is_in_the_table_with_variable_value_default_and_meaning():
    assert reference.settings_rows(Described) == [
        ("ML_PIPELINE_WORKERS", "whole number at least 1", "`2`", "Worker processes of one run.", None),
        ("ML_PIPELINE_LEVEL", "`LOW` or `HIGH`", "not set", "From this level on.", None),
        ("ML_PIPELINE_HOME", "path", "`.local`", "What is kept.", None),
    ]


def test_variables_may_come_from_a_prefix_or_an_alias():
    rows = reference.settings_rows(Prefixed)
    assert [(row.name, row.description) for row in rows] == [
        ("ML_PIPELINE_WORKERS", "Worker processes of one run."),
        ("DATABASE_URL", "Any PostgreSQL."),
    ]


def test_every_setting_has_a_row_and_no_row_names_this_machine():
    rows = reference.settings_rows(Settings)
    assert len({row.name for row in rows}) == len(Settings.model_fields)
    assert not [row for row in rows if str(PROJECT) in " ".join(row[:4])]


def test_every_key_of_a_specification_has_a_row_in_the_part_that_it_belongs_to():
    parts = {part.path: [row.name for row in part.rows] for part in reference.specification_parts(ModelSpec)}
    assert parts[""] == list(ModelSpec.model_fields)
    for path, key in [
        ("source.columns.<name>", "known_at"),
        ("features.temporal", "rolling"),
        ("training.search", "trials"),
        ("business_metrics[]", "gate"),
    ]:
        assert key in parts[path], path


@pytest.mark.parametrize(
    "name, text",
    [
        ("page.html", '<link rel="stylesheet" href="https://fonts.example/css">'),
        ("page.html", '<img src="//images.example/a.png">'),
        ("page.html", '<script src="http://cdn.example/x.js"></script>'),
        ("page.html", "<style>@import 'https://fonts.example/css';</style>"),
        ("page.html", '<div style="background: url(https://images.example/a.png)"></div>'),
        ("site.css", "@font-face {src: url(https://fonts.example/a.woff2)}"),
        ("drawing.svg", '<svg><image href="https://images.example/a.png"/></svg>'),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    (problem,) = offline.check(tmp_path)
    assert problem.startswith(f"{name} loads ") and ".example" in problem


def test_links_that_a_reader_may_follow_are_no_problem(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org/">x</a><img src="_static/a.png">', encoding="utf-8"
    )
    assert offline.check(tmp_path) == []


def test_the_license_is_that_of_the_package_metadata():
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (PROJECT / "LICENSE").read_text(encoding="utf-8")
    assert metadata["license"] == "Apache-2.0" and "Apache License" in text and "The ml-pipeline authors" in text


def built(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-E", "-q", str(source), str(target)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=PROJECT)


@pytest.mark.slow
def test_a_page_that_loads_something_from_elsewhere_fails_the_build(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\nextensions = ['myst_parser', 'offline']\n",
        encoding="utf-8",
    )
    (source / "index.md").write_text(
        '# Title\n\n```{raw} html\n<img src="https://cdn.example/x.png">\n```\n', encoding="utf-8"
    )
    build = built(source, tmp_path / "html")
    assert build.returncode == 1
    assert "index.html loads https://cdn.example/x.png from another server" in build.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    build = built(DOCS, tmp_path / "html")
    assert build.returncode == 0, build.stderr
    settings = (tmp_path / "html" / "reference" / "settings.html").read_text(encoding="utf-8")
    assert all(row.name in settings for row in reference.settings_rows(Settings))
    assert offline.check(tmp_path / "html") == []
