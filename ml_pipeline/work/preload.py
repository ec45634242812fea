"""Modules that the fork server of the worker processes imports in advance; only the fork server imports this one."""

import signal

# Ctrl-C ends the command, and with it this server. Without this line, an import that it interrupts shows a traceback.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import dagster  # noqa: F401 - what a run is started with: each worker imports the main module of its parent
import lightgbm  # noqa: F401
import mlflow
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.decomposition
import sklearn.feature_extraction.text
import sklearn.preprocessing  # noqa: F401
import skops.io  # noqa: F401
import xgboost  # noqa: F401
