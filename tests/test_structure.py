"""The code keeps its structure: no import circles, no file of many ideas, few functions of many parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ml_pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400
MANY_PARAMETERS, FUNCTIONS_OF_MANY = 8, 19


@pytest.fixture(scope="module")
def imports() -> Mapping[str, set[str]]:
    """The modules that each module imports, inside functions and for types too."""
    graph = grimp.build_graph("ml_pipeline", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports, empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def top(module: str) -> str:
    """The package or module of ``ml_pipeline`` to which a module belongs."""
    return ".".join(module.split(".")[:2])


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}: {node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether click calls it, with a parameter for each option."""
    return any(".command" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_a_circle_of_imports_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_no_module_imports_itself_by_way_of_others(imports):
    assert circle(imports) == []


def test_no_package_imports_itself_by_way_of_others(imports):
    packages: dict[str, set[str]] = {}
    for module, imported in imports.items():
        packages.setdefault(top(module), set()).update(top(one) for one in imported)
    assert circle({package: found - {package} for package, found in packages.items()}) == []


def test_no_file_is_longer_than_400_lines():
    lines = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_few_functions_take_eight_parameters_or_more():
    many = [
        name
        for name, function in functions()
        if len(parameters(function)) >= MANY_PARAMETERS and not is_command(function)
    ]
    assert len(many) <= FUNCTIONS_OF_MANY, many
