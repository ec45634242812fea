import numpy as np
import pytest
from scipy.special import expit, logit

from ml_pipeline.training.selection.probability_calibration import Calibration, calibrate


def overconfident(rows, seed=0, slope=3.0):
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(size=rows)
    label = (rng.uniform(size=rows) < expit(log_odds)).astype(float)
    return slope * log_odds, label


def test_an_overconfident_model_gets_probabilities_near_the_true_ones():
    log_odds, label = overconfident(4000)
    calibration, _ = calibrate(log_odds, label)
    assert calibration.method != "none"
    assert np.abs(calibration.probability(log_odds) - expit(log_odds / 3)).mean() < 0.02


def test_a_model_that_keeps_its_word_is_left_nearly_as_it_is():
    log_odds, label = overconfident(4000, slope=1.0)
    calibration, _ = calibrate(log_odds, label)
    assert np.abs(calibration.probability(log_odds) - expit(log_odds)).mean() < 0.02


def test_a_bend_that_no_sigmoid_has_is_found_by_the_isotonic_regression():
    rng = np.random.default_rng(1)
    log_odds = rng.uniform(-4, 4, 6000)
    truth = np.where(log_odds < 0, 0.1, np.where(log_odds < 2, 0.5, 0.55))
    label = (rng.uniform(size=6000) < truth).astype(float)
    assert calibrate(log_odds, label)[0].method == "isotonic"


def test_few_rows_are_not_fitted_by_steps():
    log_odds, label = overconfident(200)
    assert calibrate(log_odds, label, ("isotonic",))[0].method == "none"


def test_labels_of_one_class_leave_the_probabilities_as_they_are():
    calibration, crossed = calibrate(np.array([-1.0, 0.0, 1.0] * 20), np.ones(60))
    assert calibration == Calibration("none")
    assert crossed == pytest.approx(expit(np.array([-1.0, 0.0, 1.0] * 20)))


def test_a_model_that_is_wrong_way_round_is_not_turned_around():
    log_odds, label = overconfident(500)
    assert calibrate(-log_odds, label, ("none", "sigmoid"))[0].method == "none"


@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
def test_a_probability_never_is_certain_and_rises_with_the_log_odds(method):
    log_odds, label = overconfident(2000)
    calibration, _ = calibrate(log_odds, label, (method,))
    assert calibration.method == method
    probability = calibration.probability(np.linspace(-12, 12, 50))
    assert (probability > 0).all() and (probability < 1).all()
    assert (np.diff(probability) >= 0).all()


def test_the_held_out_probabilities_do_not_know_their_own_label():
    log_odds, label = overconfident(600)
    changed = label.copy()
    changed[0] = 1 - changed[0]
    _, before = calibrate(log_odds, label, ("sigmoid",))
    _, after = calibrate(log_odds, changed, ("sigmoid",))
    assert before[0] == after[0]


def test_certainty_of_a_model_is_kept_within_bounds():
    steps = Calibration("isotonic", knots=((0.0, 0.0), (1.0, 1.0)))
    assert np.isfinite(logit(steps.probability(np.array([0.0, 9.0])))).all()
