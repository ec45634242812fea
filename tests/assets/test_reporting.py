"""What a person sees of a batch: facts as metadata, and the failed tenants by name."""

from __future__ import annotations

import base64
import re

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.assets.charts import bars
from ml_pipeline.assets.reporting import comparison, materialization, metadata

ROWS = [("mae", 1.23456, 2.0), ("r2", None, -0.1)]


def test_what_is_not_known_is_left_out_and_zero_is_not():
    facts = {"skill": None, "gain": float("-inf"), "notes": "", "scored": 0, "health": 0.0}
    assert metadata(facts) == {"ml_pipeline/scored": 0, "ml_pipeline/health": 0.0}


def test_numbers_are_shown_with_four_digits_and_counts_as_they_are():
    assert metadata({"mae": 1.23456789, "rows": 123456}) == {"ml_pipeline/mae": 1.235, "ml_pipeline/rows": 123456}


def test_a_link_is_a_link():
    assert metadata({"MLflow": "http://127.0.0.1:5000/#/models"})["ml_pipeline/mlflow"] == dg.MetadataValue.url(
        "http://127.0.0.1:5000/#/models"
    )


def test_a_comparison_is_a_table_under_a_chart():
    chart, empty, *table = comparison(ROWS).splitlines()
    assert chart.startswith("![version against baseline](data:image/svg+xml;base64,")
    assert empty == ""
    assert table == [
        "| metric | version | baseline |",
        "|---|---|---|",
        "| mae | 1.235 | 2 |",
        "| r2 |  | -0.1 |",
    ]


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_longer_bar_fills_the_chart_and_neither_leaves_it(ours: float, constant: float):
    svg = base64.b64decode(bars(ours, constant).partition(",")[2]).decode()
    widths = [int(width) for width in re.findall(r'<rect[^>]*width="(\d+)"', svg)]
    assert max(widths) == (240 if max(ours, constant) > 0 else 0)
    assert (widths[0] >= widths[1]) == (ours >= constant) or widths[0] == widths[1]


def test_a_materialization_is_of_one_partition():
    event = materialization(dg.AssetKey(["m", "features"]), "acme", {"rows": 3, "test": ROWS})
    assert event.partition == "acme"
    assert event.metadata["ml_pipeline/rows"] == dg.MetadataValue.int(3)
    assert isinstance(event.metadata["ml_pipeline/test"], dg.MarkdownMetadataValue)


@pytest.mark.parametrize("ours", [0.0, 5e-324])
def test_a_version_without_error_has_a_bar_too(ours: float):
    assert bars(ours, ours).startswith("data:image/svg+xml")
