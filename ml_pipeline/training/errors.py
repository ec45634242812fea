"""What can go wrong when a learner is fitted."""


class FitError(ValueError):
    """The library refused to fit; the message names the learner and says what the library said."""
