"""The small expression language of model specifications: names, arithmetic, abs, min, max, comparisons, logic."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import reduce

import numpy as np
import pandas as pd

_ARITHMETIC: dict[type[ast.operator], Callable] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_COMPARISON: dict[type[ast.cmpop], Callable] = {
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


_FUNCTIONS = {"abs": (1, 1), "min": (2, None), "max": (2, None)}  # least and most arguments


class ExpressionError(ValueError):
    """The text is not an expression of this language; the message names the part that is not."""


class Expression:
    """A value per row, computed from the row's columns.

    A row in which any named column is missing, or where the result is not finite (a division by zero), has no value
    (NaN). The difference of two times is in seconds. A condition is 1.0 where true and 0.0 where false.

    Raises
    ------
    ExpressionError
        If the text does not parse, or uses anything beyond names, numbers, strings, ``+ - * /``, ``abs(a)``,
        ``min(a, b)``, ``max(a, b)``, comparisons, ``and``, ``or``, ``not`` and ``in [...]``.

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
        except SyntaxError as error:
            raise ExpressionError(f"{text!r} is not an expression: {error.msg}") from error
        self._check(self._tree)
        called = {id(node.func) for node in ast.walk(self._tree) if isinstance(node, ast.Call)}
        names = [node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name) and id(node) not in called]
        self.names = tuple(dict.fromkeys(names))

    def evaluate(self, frame: pd.DataFrame) -> pd.Series:
        """One float per row of ``frame``, in its order and with its index."""
        values = pd.Series(self._value(self._tree, frame), index=frame.index, dtype="float64").to_numpy()
        known = np.isfinite(values)
        for name in self.names:
            known &= frame[name].notna().to_numpy()
        return pd.Series(np.where(known, values, np.nan), index=frame.index)

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
                    raise ExpressionError(
                        f"{self.text!r} gives {name} {len(arguments)} values, it takes {_taken(name)}"
                    )
                parts = arguments
            case _:
                part = ast.unparse(node)
                raise ExpressionError(f"{self.text!r} uses {part!r}, which this language does not have")
        for part_node in parts:
            self._check(part_node)

    def _value(self, node: ast.AST, frame: pd.DataFrame):
        match node:
            case ast.Name(id=name):
                return frame[name]
            case ast.Constant(value=value):
                return value
            case ast.BinOp(left=left, op=op, right=right):
                return _in_seconds(_ARITHMETIC[type(op)](self._value(left, frame), self._value(right, frame)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._truth(operand, frame)
            case ast.UnaryOp(operand=operand):
                return -self._value(operand, frame)
            case ast.BoolOp(op=op, values=values):
                both = isinstance(op, ast.And)
                truths = [self._truth(value, frame) for value in values]
                return reduce((lambda a, b: a & b) if both else (lambda a, b: a | b), truths)
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.List(elts=elements)]):
                return self._value(left, frame).isin([self._value(element, frame) for element in elements])
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return _COMPARISON[type(op)](self._value(left, frame), self._value(right, frame))
            case ast.Call(func=ast.Name(id="abs"), args=[argument]):
                return abs(self._value(argument, frame))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return reduce(_smaller if name == "min" else _larger, [self._value(a, frame) for a in arguments])
        raise AssertionError(f"unchecked node {ast.dump(node)}")

    def _truth(self, node: ast.AST, frame: pd.DataFrame) -> pd.Series:
        value = self._value(node, frame)
        return pd.Series(value, index=frame.index).fillna(False).astype(bool)


def _smaller(a, b):
    return _chosen(a, b, a <= b)


def _larger(a, b):
    return _chosen(a, b, a >= b)


def _chosen(a, b, takes_a):
    """``a`` where the condition holds, else ``b``; each a column or a single value, times included."""
    if not isinstance(takes_a, pd.Series):
        return a if takes_a else b
    a = a if isinstance(a, pd.Series) else pd.Series(a, index=takes_a.index)
    return a.where(takes_a, b)


def _taken(name: str) -> str:
    least, most = _FUNCTIONS[name]
    return str(least) if most else f"{least} or more"


def _in_seconds(value):
    """Differences of times as seconds, so that they compare with numbers; anything else as it is."""
    if isinstance(value, pd.Series) and value.dtype.kind == "m":
        return value.dt.total_seconds()
    return value
