"""``ml-pipeline``: the command line."""

from ml_pipeline.cli.app import main

__all__ = ["main"]
