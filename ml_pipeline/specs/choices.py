"""What a specification lets the search choose: the keys of ``preprocessing`` whose value is a list."""

from __future__ import annotations

from typing import Any

from ml_pipeline.specs.model_spec import ModelSpec


def choices(spec: ModelSpec) -> dict[str, list[Any]]:
    """The keys of ``spec.preprocessing`` whose value is a list, with the values for the search to try.

    Without a search, the first value of each list is used.
    """
    return spec.preprocessing.choices


def with_choices(spec: ModelSpec, chosen: dict[str, Any]) -> ModelSpec:
    """A copy of ``spec`` with the keys of ``preprocessing`` in ``chosen`` set to one value; other keys do not change.

    The hash of the copy differs; versions are stored with the hash of the original specification.

    Raises
    ------
    ValueError
        If the specification has no list for a key, or the list does not contain the value.
    """
    open_keys = spec.preprocessing.choices
    for key, value in chosen.items():
        if key not in open_keys or value not in open_keys[key]:
            raise ValueError(
                f"{spec.name}: preprocessing.{key} cannot be set to {value!r}; the specification allows the search "
                f"{open_keys or 'no choices'}. Add the value to the list there"
            )
    return spec.model_copy(update={"preprocessing": spec.preprocessing.model_copy(update=chosen)})
