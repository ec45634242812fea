"""A training with a search: what the version says of it."""

from __future__ import annotations

import pytest

from ml_pipeline.resources.compute import Compute
from ml_pipeline.resources.registry import Registry
from ml_pipeline.specs.search import Search
from ml_pipeline.work.training.task import FEATURES, MODEL, TrainingTask, run_training

pytestmark = pytest.mark.long

BAD = {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.001}
TRIALS = 12
SMALL = Search(trials=TRIALS, pruning=None, adaptive=False, space={"n_estimators": [20, 40], "max_depth": [2, 4]})


@pytest.fixture
def searching(tenant, make_issues):
    return tenant.changed("training", params=BAD, search=SMALL).holds(make_issues(40))


def test_a_version_says_in_mlflow_what_the_search_did(searching):
    assert searching.train(40).error is None
    (version,) = searching.versions()
    run = Registry(searching.settings).client.get_run(version.run_id).data
    assert run.metrics["search_complete"] == TRIALS
    assert run.metrics["search_used"] == 1
    assert run.metrics["search_gain"] > 0.1
    assert float(version.tags["search_gain"]) == pytest.approx(run.metrics["search_gain"], abs=1e-6)
    assert version.tags["search_stopped"] == f"all {TRIALS} trials were run"
    assert float(run.params["learning_rate"]) > BAD["learning_rate"]


def test_searches_that_gain_nothing_become_smaller(tenant, make_issues):
    hopeless = Search(trials=20, space={"n_estimators": [1, 2], "learning_rate": [0.0001, 0.001]})
    tenant = tenant.changed("training", search=hopeless).holds(make_issues(60))
    for day in (40, 50, 60):
        assert tenant.train(day).error is None
    client = Registry(tenant.settings).client
    states = ("complete", "pruned", "failed")
    metrics = [client.get_run(version.run_id).data.metrics for version in tenant.versions()]
    assert [sum(one[f"search_{state}"] for state in states) for one in metrics] == [20, 20, 10]


def test_a_search_of_two_processes_is_finished_inside_a_worker_of_a_run(searching):
    parallel = searching.changed("training", search=SMALL.model_copy(update={"processes": 2}))
    settings = parallel.settings.model_copy(update={"workers": 2})
    worker = settings.for_workers()
    task = TrainingTask(worker, parallel.spec, parallel.name, parallel.task(40).as_of, (FEATURES, MODEL))
    (result,) = Compute(1, 120).map(run_training, [("acme", task)])
    assert result.error is None and result.value.error is None
    (version,) = parallel.versions()
    metrics = Registry(settings).client.get_run(version.run_id).data.metrics
    assert metrics["search_complete"] == TRIALS
