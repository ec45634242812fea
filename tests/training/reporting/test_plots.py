import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ml_pipeline.training.reporting.plots import Tried, picture
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import baseline_instead

TRIED = [Tried(number, 2.0 - number / 10) for number in range(8)]


@pytest.fixture(scope="module")
def versions(specs, make_frame):
    """Of each shipped model: specification and version."""
    as_of = pd.Timestamp("2026-01-01", tz="UTC")
    return {name: (spec, train(spec, make_frame(spec, 300), as_of)) for name, spec in specs.items()}


def inked(picture: bytes) -> list[bool]:
    """Which of the six places of the picture, line by line, have something drawn in them."""
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.size) == ("PNG", (960, 520))
        grey = np.asarray(image.convert("L"))
    return [bool((place < 200).any()) for line in np.vsplit(grey, 2) for place in np.hsplit(line, 3)]


@pytest.mark.parametrize("name", ["story_points", "lead_time", "rework_risk"])
def test_a_version_has_five_panels_and_a_sixth_where_a_search_was_made(versions, name):
    assert inked(picture(*versions[name])) == [True] * 5 + [False]
    assert inked(picture(*versions[name], TRIED)) == [True] * 6


def test_a_constant_has_neither_importance_nor_interval_nor_learning_curve(versions):
    spec, trained = versions["story_points"]
    assert inked(picture(spec, baseline_instead(spec, trained))) == [True, True, False, False, False, False]


def test_the_same_version_gives_the_same_picture(versions):
    assert picture(*versions["lead_time"]) == picture(*versions["lead_time"])


def test_a_test_part_in_which_everything_is_the_same_can_be_drawn(versions):
    spec, trained = versions["story_points"]
    one = trained.test_predictions.head(1)
    assert inked(picture(spec, replace(trained, test_predictions=one.assign(value=one["label"]))))[1]


def test_no_figure_of_pyplot_is_left_behind(versions):
    from matplotlib import pyplot

    picture(*versions["story_points"])
    assert pyplot.get_fignums() == []
