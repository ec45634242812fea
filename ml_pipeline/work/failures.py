"""How the failure of a tenant is logged: an error that a person can correct as one line, any other with its stack."""

from __future__ import annotations

import logging

from ml_pipeline.errors import UserError, short_traceback


def log_failure(logger: logging.Logger, what: str, error: Exception) -> str:
    """Logs that ``what`` failed; returns the shortened traceback, empty for an error that a person can correct."""
    if isinstance(error, UserError):
        logger.error("%s failed: %s", what, error)
        return ""
    logger.error("%s failed", what, exc_info=error)
    return short_traceback(error)
