import numpy as np
import pytest

from ml_pipeline.features.encoding.preprocessing import fit_preprocessor


def test_levels_never_seen_in_training_become_missing(story_points, make_frame):
    frame = make_frame(story_points, 60)
    preprocessor = fit_preprocessor(story_points, frame)
    unseen = frame.head(3).assign(issue_type=["a", "zebra", "zebra"])
    known = preprocessor.transform(frame.head(3).assign(issue_type="a"))
    changed = np.isnan(preprocessor.transform(unseen)) & ~np.isnan(known)
    assert changed.any(axis=1).tolist() == [False, True, True]


def test_a_missing_category_is_a_level_of_its_own(story_points, make_frame):
    frame = make_frame(story_points, 60)
    frame.loc[:20, "team"] = None
    preprocessor = fit_preprocessor(story_points, frame)
    missing, present = (preprocessor.transform(frame.head(1).assign(team=level)) for level in (None, "a"))
    assert np.isnan(missing).sum() == np.isnan(present).sum()
    assert not np.array_equal(missing, present, equal_nan=True)


@pytest.mark.parametrize("text", ["", "the same words", "!?"])
def test_text_without_information_does_not_stop_the_fit(story_points, make_frame, text):
    frame = make_frame(story_points, 60).assign(text=text)
    matrix = fit_preprocessor(story_points, frame).transform(frame)
    assert matrix.shape[0] == 60


def test_text_in_which_no_word_occurs_twice_has_no_components(story_points, make_frame):
    frame = make_frame(story_points, 60)
    frame["text"] = [f"word{number}" for number in range(60)]
    assert fit_preprocessor(story_points, frame).reducer is None


def test_an_all_missing_column_and_a_constant_column_pass_through(story_points, make_frame):
    frame = make_frame(story_points, 60).assign(history_mean=np.nan, calendar_hour=1.0, team=None)
    matrix = fit_preprocessor(story_points, frame).transform(frame)
    assert np.isnan(matrix).all(axis=0).sum() == 1


def test_counts_that_grow_with_age_do_not_reach_the_learner(story_points, make_frame):
    frame = make_frame(story_points, 60)
    preprocessor = fit_preprocessor(story_points, frame)
    grown = frame.assign(history_known=1e6, history_team_known=1e6, history_open=1e6)
    assert np.array_equal(preprocessor.transform(frame), preprocessor.transform(grown), equal_nan=True)


def test_a_missing_column_is_named(story_points, make_frame):
    frame = make_frame(story_points, 60)
    preprocessor = fit_preprocessor(story_points, frame)
    with pytest.raises(ValueError, match=r"lacks \['history_mean'\]"):
        preprocessor.transform(frame.drop(columns="history_mean"))
