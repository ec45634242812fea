import numpy as np
import pytest

from ml_pipeline.training.online.weights import Weights, gains

AWAKE = np.ones(2, dtype=bool)


def learnt(rows: int, seed: int, better: float) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Two experts of noisy losses, the first better by ``better``; the state, and the losses of experts and mixture."""
    rng = np.random.default_rng(seed)
    weights, mixed, experts = Weights.equal(2), [], []
    for _ in range(rows):
        losses = rng.normal([1.0, 1.0 + better], 0.3)
        share = weights.among(AWAKE)
        mixed.append(share @ losses)
        experts.append(losses)
        weights = weights.updated(share @ losses - losses)
    return weights, np.array(experts), np.array(mixed)


def test_weights_start_equal_and_sleeping_experts_have_none():
    awake = np.array([[True, True, True], [True, False, True]])
    assert Weights.equal(3).among(awake).tolist() == [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.0, 0.5]]


@pytest.mark.parametrize("seed", range(3))
def test_the_better_expert_gets_nearly_all_the_weight(seed):
    weights, _, _ = learnt(400, seed, better=0.3)
    assert weights.among(AWAKE)[0] > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_the_mixture_is_hardly_worse_than_the_best_expert(seed):
    _, experts, mixed = learnt(1000, seed, better=0.1)
    assert mixed.mean() - experts.mean(axis=0).min() < 0.03


def test_the_unit_of_the_gains_does_not_matter():
    rng = np.random.default_rng(0)
    one = other = Weights.equal(3)
    for gain in rng.normal(size=(50, 3)):
        one, other = one.updated(gain), other.updated(1000 * gain)
    awake = np.ones(3, dtype=bool)
    assert one.among(awake) == pytest.approx(other.among(awake))


def test_the_gains_are_the_linearised_difference_of_the_crps():
    # By hand: gradient 2 * (0.5 - 1) * 3 = -3; the first expert is 0.4 above the mixture, the second 0.4 below.
    experts, mixture = np.array([[0.9, 1.0], [0.1, 1.0], [0.1, 1.0]]), np.array([0.5, 1.0])
    awake = np.array([True, True, False])
    found = gains(experts, mixture, awake, np.array([True, True]), np.array([3.0]))
    assert found == pytest.approx([1.2, -1.2, 0.0])
