"""A training with a search: what the version says of it, and what happens to its trials."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from unittest import mock

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.compute import PRELOAD, Compute
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.studies import Studies
from ml_pipeline.resources.warehouse import APP_ROLE
from ml_pipeline.specs.search import Search
from ml_pipeline.training.search.parameters import FoldLosses
from ml_pipeline.work.training.task import FEATURES, MODEL, TrainingTask, run_training

pytestmark = pytest.mark.long

BAD = {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.001}
TRIALS = 12
SMALL = Search(trials=TRIALS, pruning=None, adaptive=False, space={"n_estimators": [20, 40], "max_depth": [2, 4]})


@pytest.fixture
def searching(tenant, make_issues):
    return tenant.changed("training", params=BAD, search=SMALL).holds(make_issues(40))


def administration(settings) -> sa.Engine:
    return postgres.engine(postgres.parse_url(settings.database_url))


def stored_trials(settings) -> list[str]:
    with administration(settings).connect() as connection:
        return list(connection.scalars(sa.text("SELECT state::text FROM optuna.trials")))


def killed_after(task: TrainingTask, fits: int) -> None:
    """Ends its process, as a crash would, in the middle of a search."""
    real, count = FoldLosses.__call__, iter(range(10_000))

    def counted(self, params, fold):
        if next(count) == fits:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)  # fits of milliseconds would be ahead of the thread that writes the trials down
        return real(self, params, fold)

    with mock.patch.object(FoldLosses, "__call__", counted):
        run_training(task)


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


def test_the_trials_are_forgotten_when_the_training_has_ended(searching):
    searching.train(40)
    assert stored_trials(searching.settings) == []


def test_a_training_that_was_killed_in_its_search_goes_on_with_its_trials(searching):
    searching.train(40, (FEATURES,))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=killed_after, args=(searching.task(40, (MODEL,)), 22))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = stored_trials(searching.settings).count("COMPLETE")
    assert kept >= 3
    fits = []
    real = FoldLosses.__call__
    with mock.patch.object(FoldLosses, "__call__", lambda *given: fits.append(given) or real(*given)):
        assert searching.train(40, (MODEL,)).error is None
    assert len(fits) == SMALL.folds * (TRIALS - kept)
    (version,) = searching.versions()
    assert Registry(searching.settings).client.get_run(version.run_id).data.metrics["search_complete"] == TRIALS


def test_the_role_of_the_tenants_cannot_enter_the_studies(searching):
    searching.train(40)
    with administration(searching.settings).connect() as connection:
        connection.execute(sa.text(f"SET ROLE {APP_ROLE}"))
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied for schema optuna"):
            connection.execute(sa.text("SELECT * FROM optuna.studies"))


def test_one_tenants_studies_are_removed_and_another_s_stay(settings):
    import optuna

    studies = Studies(settings)
    url = studies.prepare()
    for name in ("acme/m/1", "acme/m/2", "acme_2/m/1", "acme/m2/1"):
        optuna.create_study(storage=url, study_name=name)
    studies.remove("acme", "m")
    assert optuna.get_all_study_names(url) == ["acme_2/m/1", "acme/m2/1"]


def test_without_resume_nothing_is_kept_in_the_database(searching):
    forgetful = searching.changed("training", search=SMALL.model_copy(update={"resume": False}))
    assert forgetful.train(40).error is None
    with administration(searching.settings).connect() as connection:
        assert connection.scalar(sa.text("SELECT to_regclass('optuna.studies')")) is None


def test_searches_that_gain_nothing_become_smaller(tenant, make_issues):
    hopeless = Search(trials=20, space={"n_estimators": [1, 2], "learning_rate": [0.0001, 0.001]}, resume=False)
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
    Studies(settings).prepare()  # by the run: the login of the workers makes no tables
    worker = settings.for_workers()
    task = TrainingTask(worker, parallel.spec, parallel.name, parallel.task(40).as_of, (FEATURES, MODEL))
    (result,) = Compute(1, 120).map(run_training, [("acme", task)])
    assert result.error is None and result.value.error is None
    (version,) = parallel.versions()
    metrics = Registry(settings).client.get_run(version.run_id).data.metrics
    assert metrics["search_complete"] == TRIALS
