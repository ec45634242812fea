"""Errors of fitting a learner."""


class FitError(ValueError):
    """The learner's library raised an error; the message names the learner and quotes the library."""
