"""Loading of specifications from YAML files; an invalid file affects only its own model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from ml_pipeline.errors import UserError
from ml_pipeline.specs.model_spec import ModelSpec

MAX_BYTES = 1_000_000  # of one file


class SpecError(UserError):
    """A model specification is invalid; the message names file, key, value and remedy."""


class BrokenSpec(NamedTuple):
    """A file, or a folder of files, that cannot be loaded."""

    model: str
    """The model's name from the file's content if readable, else the name of the file."""
    error: str


class Specs(dict[str, ModelSpec]):
    """Specifications by name, and the errors of files that could not be loaded.

    Access to a model whose file is broken raises :class:`SpecError` with the error of the file.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], broken: Iterable[BrokenSpec] = ()) -> None:
        super().__init__(specs)
        self.broken = tuple(broken)

    def __missing__(self, name: str) -> ModelSpec:
        self.check(name)
        raise KeyError(name)

    def check(self, name: str) -> None:
        """Raise :class:`SpecError` if the model's file is broken."""
        for model, error in self.broken:
            if model == name and name not in self:
                raise SpecError(error)

    def is_broken(self, name: str) -> bool:
        """Whether the file of the model is broken."""
        return name not in self and any(model == name for model, _ in self.broken)


def load_spec(path: Path) -> ModelSpec:
    """The specification in one YAML file.

    Raises
    ------
    SpecError
        If the file is not YAML or not a valid specification; the message lists every problem with its key and value.
    """
    content = _content(path)
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "missing":
                problems.append(f"{key}: is missing. Add it")
            elif problem["type"] == "extra_forbidden":
                problems.append(f"{key}: is not a key of a specification (value {problem['input']!r}). Remove it")
            elif key:
                problems.append(f"{key}: {problem['input']!r}: {message}")
            else:
                problems.append(message)
        raise SpecError(f"{path}: " + "; ".join(problems) + ".") from error


def load_specs(folders: Iterable[Path] = ()) -> Specs:
    """All specifications of the package and of ``folders``, by name, in name order.

    Invalid files, missing folders and second files for the same model are collected in ``broken``, so that a mistake in
    one file does not stop other models, schedules, sensors, alerts or commands.
    """
    specs: dict[str, ModelSpec] = {}
    broken: list[BrokenSpec] = []
    for folder in (Path(__file__).parent / "models", *folders):
        if not folder.is_dir():
            broken.append(BrokenSpec(folder.name, f"{folder}: is not a folder. Correct ML_PIPELINE_SPECS"))
            continue
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                spec = load_spec(path)
                if spec.name in specs:
                    raise SpecError(
                        f"{path}: name: {spec.name!r} is also described by another file. Rename one of the two models"
                    )
                specs[spec.name] = spec
            except SpecError as error:
                broken.append(BrokenSpec(_name(path), str(error)))
    return Specs(dict(sorted(specs.items())), broken)


def _name(path: Path) -> str:
    try:
        name = _content(path).get("name")
    except SpecError:
        return path.stem
    return name if isinstance(name, str) and name else path.stem


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise SpecError(f"{path}: cannot be read as YAML. Provide a regular file of at most {MAX_BYTES:,} bytes")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except Exception as error:
        raise SpecError(f"{path}: cannot be read as YAML. Correct the file: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path}: contains {type(content).__name__}, not a mapping. See docs/how-to/add-a-model.md")
    return content


class _Loader(yaml.SafeLoader):
    """Rejects repeated keys; YAML's own loader would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    twice = f"{key.value!r} is given twice. Remove one of them"
                    raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
