"""The shortened traceback of an error."""

from ml_pipeline.errors import LONGEST_TRACEBACK, short_traceback


def descend(depth: int) -> None:
    if depth:
        descend(depth - 1)
    raise ValueError("x" * 100_000)


def test_a_long_traceback_keeps_its_innermost_frames_its_cause_and_a_few_thousand_characters():
    try:
        try:
            descend(500)
        except ValueError as error:
            raise KeyError("no window") from error
    except KeyError as error:
        text = short_traceback(error)
    assert len(text) <= LONGEST_TRACEBACK + 10
    assert text.count("in descend") <= 10
    assert text.endswith("KeyError: 'no window'")
