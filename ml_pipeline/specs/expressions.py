"""The small expression language of model specifications: names, arithmetic, abs, min, max, comparisons, logic."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a specification is read by commands that compute nothing
    import pandas as pd


Operand = Any
"""A column (pandas Series) or a single value."""


def _divided(a: Operand, b: Operand) -> Operand:
    import pandas as pd

    return a / (b.where(b != 0) if isinstance(b, pd.Series) else b or float("nan"))


_ARITHMETIC: dict[type[ast.operator], Callable[[Operand, Operand], Operand]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: _divided,
}
_COMPARISON: dict[type[ast.cmpop], Callable[[Operand, Operand], Operand]] = {
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


_FUNCTIONS = {"abs": (1, 1), "min": (2, None), "max": (2, None)}  # smallest and largest number of arguments
_TRUTH = {"true": 1.0, "false": 0.0}
_FAMILIES = {"number": "number", "boolean": "number", "category": "text", "text": "text", "time": "time"}
_NOUNS = {"number": "a number", "text": "a text", "time": "a time"}


class ExpressionError(ValueError):
    """The text is not a valid expression; the message names the part that is wrong."""


class Expression:
    """An expression that computes one value per row from the row's columns.

    The value is NaN if a column in the expression is missing, or if any part of the expression is undefined (a division
    by zero); an unknown condition is thus not false. The difference of two times is in seconds. Conditions and boolean
    columns are 1.0 if true and 0.0 if false.

    Raises
    ------
    ExpressionError
        If the text does not parse, or uses anything other than names, numbers, strings, ``true``, ``false``,
        ``+ - * /``, ``abs(a)``, ``min(a, b)``, ``max(a, b)``, comparisons, ``and``, ``or``, ``not`` and ``in [...]``.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"cycles": [1, 3, None], "commits": [5, 0, 9]})
    >>> Expression("cycles > 2 or commits > 3").evaluate(frame).tolist()
    [1.0, 1.0, nan]
    >>> Expression("max(abs(cycles - 2), 1)").evaluate(frame).tolist()
    [1.0, 1.0, nan]
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, ExpressionError):
                raise
            said = error.msg if isinstance(error, SyntaxError) else str(error) or "too deep"
            raise ExpressionError(f"{text[:200]!r} is not an expression: {said}") from error
        called = {id(node.func) for node in ast.walk(self._tree) if isinstance(node, ast.Call)}
        nodes = [node for node in ast.walk(self._tree) if isinstance(node, ast.Name) and id(node) not in called]
        names = [node.id for node in nodes if node.id not in _TRUTH]
        self.names = tuple(dict.fromkeys(names))

    def evaluate(self, frame: pd.DataFrame) -> pd.Series:
        """One float per row of ``frame``, with its index."""
        import numpy as np
        import pandas as pd

        known = np.ones(len(frame), dtype=bool)
        for name in self.names:
            known &= frame[name].notna().to_numpy()
        # Rows with a missing column are left out, because a text cannot be compared with a missing value.
        part = pd.DataFrame({name: frame[name][known] for name in self.names}, index=frame.index[known])
        found = pd.Series(self._value(self._tree, part), index=part.index, dtype="float64").to_numpy()
        values = np.full(len(frame), np.nan)
        values[known] = np.where(np.isfinite(found), found, np.nan)
        return pd.Series(values, index=frame.index)

    def check_types(self, types: Mapping[str, str]) -> None:
        """Check that the value is a number or a condition, and that each operation has operands of matching types.

        Parameters
        ----------
        types
            The declared type of each named column: number, boolean, category, text or time.

        Raises
        ------
        ExpressionError
            If a type is wrong. A text compared with a number, for example, would be false in every row.
        """
        family = self._family(self._tree, types)
        if family != "number":
            raise ExpressionError(
                f"{self.text!r} is {_NOUNS[family]}, not a number or a condition{_remedy(self._tree, types)}"
            )

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Name() | ast.Constant(value=int() | float() | str()):
                return
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [left, right]
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                parts = [operand]
            case ast.BoolOp(values=values):
                parts = values
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISON:
                parts = [left, right]
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.List(elts=elements)]):
                parts = [left, *elements]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                least, most = _FUNCTIONS[name]
                if not least <= len(arguments) <= (most or len(arguments)):
                    takes = str(least) if most else f"{least} or more"
                    raise ExpressionError(f"{self.text!r} gives {name} {len(arguments)} values, it takes {takes}")
                parts = arguments
            case _:
                part = ast.unparse(node)
                raise ExpressionError(f"{self.text!r} uses {part!r}, which expressions do not support")
        for part_node in parts:
            self._check(part_node)

    def _value(self, node: ast.AST, frame: pd.DataFrame) -> Operand:
        import pandas as pd

        match node:
            case ast.Name(id=name):
                return _TRUTH[name] if name in _TRUTH else frame[name]
            case ast.Constant(value=value):
                return value
            case ast.BinOp(left=left, op=op, right=right):
                return _in_seconds(_ARITHMETIC[type(op)](self._value(left, frame), self._value(right, frame)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return 1.0 - self._truth(operand, frame)
            case ast.UnaryOp(operand=operand):
                return -self._value(operand, frame)
            case ast.BoolOp(op=op, values=values):
                truths = [self._truth(value, frame) for value in values]
                truth = pd.concat(truths, axis=1)
                both = isinstance(op, ast.And)
                return truth.min(axis=1, skipna=False) if both else truth.max(axis=1, skipna=False)
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.List(elts=elements)]):
                among = [self._compared(ast.Eq, left, element, frame) for element in elements]
                return pd.concat([pd.Series(0.0, index=frame.index), *among], axis=1).max(axis=1, skipna=False)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._compared(type(op), left, right, frame)
            case ast.Call(func=ast.Name(id="abs"), args=[argument]):
                return abs(self._value(argument, frame))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                takes = _COMPARISON[ast.LtE if name == "min" else ast.GtE]
                values = [self._value(argument, frame) for argument in arguments]
                return reduce(lambda a, b: _chosen(a, b, takes(a, b)), values)
        raise AssertionError(f"unchecked node {ast.dump(node)}")

    def _truth(self, node: ast.AST, frame: pd.DataFrame) -> pd.Series:
        """1.0 and 0.0, NaN for unknown."""
        import pandas as pd

        value = pd.Series(self._value(node, frame), index=frame.index, dtype="float64")
        return (value != 0).astype("float64").where(value.notna())

    def _compared(self, op: type[ast.cmpop], left: ast.AST, right: ast.AST, frame: pd.DataFrame) -> pd.Series:
        import numpy as np
        import pandas as pd

        sides = [self._value(side, frame) for side in (left, right)]
        known = np.ones(len(frame), dtype=bool)
        for side in sides:
            known &= pd.Series(side, index=frame.index).notna().to_numpy()
        return pd.Series(_COMPARISON[op](*sides), index=frame.index).astype("float64").where(known)

    def _family(self, node: ast.AST, types: Mapping[str, str]) -> str:
        """The type of a part: ``number`` (also for conditions), ``text`` or ``time``."""
        match node:
            case ast.Name(id=name):
                return "number" if name in _TRUTH else _FAMILIES[types[name]]
            case ast.Constant(value=value):
                return "text" if isinstance(value, str) else "number"
            case ast.BinOp(left=left, op=op, right=right):
                families = self._family(left, types), self._family(right, types)
                if families == ("number", "number") or (families == ("time", "time") and isinstance(op, ast.Sub)):
                    return "number"
                raise ExpressionError(
                    f"{ast.unparse(node)!r} computes with {_NOUNS[families[0]]} and {_NOUNS[families[1]]}; "
                    "only two numbers can be combined, or one time subtracted from another"
                )
            case ast.Compare(left=left, comparators=[right]):
                others = right.elts if isinstance(right, ast.List) else [right]
                for other in others:
                    self._check_alike(node, self._family(left, types), other, types)
                return "number"
            case ast.Call(func=ast.Name(id=name), args=[first, *others]) if name != "abs":
                for other in others:
                    self._check_alike(node, self._family(first, types), other, types)
                return self._family(first, types)
            case ast.BoolOp(values=parts) | ast.Call(args=parts):
                return self._of_numbers(node, parts, types)
            case ast.UnaryOp(operand=operand):
                return self._of_numbers(node, [operand], types)
        raise AssertionError(f"unchecked node {ast.dump(node)}")

    def _of_numbers(self, node: ast.AST, parts: list[ast.expr], types: Mapping[str, str]) -> str:
        for part in parts:
            if (family := self._family(part, types)) != "number":
                raise ExpressionError(
                    f"{ast.unparse(node)!r} needs a number or a condition; {ast.unparse(part)!r} is "
                    f"{_NOUNS[family]}{_remedy(part, types)}"
                )
        return "number"

    def _check_alike(self, node: ast.AST, family: str, other: ast.AST, types: Mapping[str, str]) -> None:
        theirs = self._family(other, types)
        as_time = {family, theirs} == {"time", "text"} and isinstance(other, ast.Constant)  # '2026-01-31'
        if family != theirs and not as_time:
            raise ExpressionError(
                f"{ast.unparse(node)!r} compares {_NOUNS[family]} with {_NOUNS[theirs]}, which are never equal"
                f"{_remedy(node, types)}"
            )


def _remedy(node: ast.AST, types: Mapping[str, str]) -> str:
    texts = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and types.get(part.id) == "category"]
    return (
        f". Declare {texts[0]!r} as boolean if it contains true and false, or as number if it contains numbers"
        if texts
        else ""
    )


def _chosen(a: Operand, b: Operand, takes_a: Operand) -> Operand:
    """``a`` where the condition is true, else ``b``; each is a column or a single value, also a time."""
    import pandas as pd

    if not isinstance(takes_a, pd.Series):
        return a if takes_a else b
    a = a if isinstance(a, pd.Series) else pd.Series(a, index=takes_a.index)
    return a.where(takes_a, b).where(pd.notna(a) & pd.notna(b))


def _in_seconds(value: Operand) -> Operand:
    """Time differences converted to seconds, so that they compare with numbers; other values unchanged."""
    import pandas as pd

    if isinstance(value, pd.Series) and value.dtype.kind == "m":
        return value.dt.total_seconds()
    return value
