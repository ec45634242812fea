"""Statistics of many ranges of events at once, each a function of the events inside the range and of nothing else.

Running sums over all events would be quicker and wrong: their differences cancel where one outcome was huge, and round
differently where other groups have other events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_GROUP = -1


class Range(NamedTuple):
    """For each question the events ``first`` .. ``end - 1`` of its group; ``first <= end``, both counted from 0."""

    first: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class Groups:
    """Events of several groups, laid out group by group, each group's in the order of time."""

    order: np.ndarray
    """Events of a group, by group and time."""
    keys: np.ndarray
    """Group and position in time of each of them as one ascending number."""
    start: np.ndarray
    """Where each group begins in ``order``; one more than there are groups."""
    width: int

    @classmethod
    def of(cls, codes: np.ndarray, count: int) -> Groups:
        """``codes``: group 0 .. ``count - 1`` of each event in the order of time, or ``NO_GROUP``."""
        width = len(codes) + 1
        order = np.argsort(codes, kind="stable")
        order = order[np.count_nonzero(codes == NO_GROUP) :]
        keys = codes[order] * width + order
        return cls(order, keys, np.searchsorted(keys, np.arange(count + 1) * width), width)

    def seen(self, codes: np.ndarray, before: np.ndarray) -> np.ndarray:
        """How many of the first ``before`` events are of group ``codes``; 0 for ``NO_GROUP``.

        >>> Groups.of(np.array([0, 1, 0]), 2).seen(np.array([0, 0, 1, -1]), np.array([1, 3, 3, 3])).tolist()
        [1, 2, 1, 0]
        """
        found = np.searchsorted(self.keys, codes * self.width + before) - self.start[codes]
        return np.where(codes == NO_GROUP, 0, found)

    def at(self, codes: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The event at a position of a group. ``position`` is within the group."""
        return self.order[self.start[codes] + position]

    def cells(self) -> tuple[np.ndarray, int]:
        """First cell of each group, and number of cells, where each group begins at a multiple of its size.

        Sizes are rounded up to powers of two. So how a range lies in the blocks of :func:`range_moments` depends on its
        place in the group alone, whatever other groups hold and whatever comes later.
        """
        sizes = np.maximum(np.diff(self.start), 1)
        rounded = np.int64(1) << np.ceil(np.log2(sizes)).astype("int64")
        largest_first = np.argsort(-rounded, kind="stable")
        ends = np.cumsum(rounded[largest_first])
        first = np.empty(len(sizes), dtype="int64")
        first[largest_first] = ends - rounded[largest_first]
        widest = int(rounded.max(initial=1))
        return first, -(-int(ends[-1] if len(ends) else 1) // widest) * widest


class Moments(NamedTuple):
    """Of the values y in each range: NaN where it is empty. With times t also the sums that a straight line takes."""

    n: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    """Sum of (y - mean)^2."""
    low: np.ndarray
    high: np.ndarray
    time_square: np.ndarray
    """Sum of (t - mean t)^2; empty without times."""
    product: np.ndarray
    """Sum of (t - mean t) (y - mean); empty without times."""

    @property
    def std(self) -> np.ndarray:
        """Standard deviation with n - 1; NaN for fewer than two values."""
        few = self.n < 2
        return np.sqrt(np.where(few, np.nan, self.square) / np.where(few, 1, self.n - 1))


def range_moments(
    groups: Groups, codes: np.ndarray, values: np.ndarray, ranges: Sequence[Range], times: np.ndarray | None = None
) -> list[Moments]:
    """Moments of the values in each range, in O(n log n) time and O(n) memory.

    A disjoint sparse table: a range that crosses the middle of a block of 2^k cells, and of no larger one, is a tail of
    the block's left half and a head of its right half, so that two running sums, both outward from the middle, give
    it. They are sums of differences to the value in the middle, which is in the range: with it as one of the n values
    the cancellation in the sum of squares is at most by a factor of n (Chan, Golub & LeVeque 1983).

    Parameters
    ----------
    codes
        Group of each question.
    values, times
        One per event, finite, in the order in which the groups were made.
    ranges
        Each with one entry per question.
    """
    starts, size = groups.cells()
    group = groups.keys // groups.width
    cell = starts[group] + np.arange(len(group)) - groups.start[group]
    y = np.zeros(size)
    y[cell] = values[groups.order]
    t = None
    if times is not None:
        t = np.zeros(size)
        t[cell] = times[groups.order]
    base = starts[codes] if len(starts) else np.zeros(len(codes), dtype="int64")
    questions = [_Question.of(base, asked, y, t is not None) for asked in ranges]
    for level in range(size.bit_length()):
        if any(question.asks(level) for question in questions):
            sums = _outward_sums(y, t, 1 << level)
            for question in questions:
                question.take(level, sums)
    return [question.answer() for question in questions]


def _outward_sums(y: np.ndarray, t: np.ndarray | None, half: int) -> list[np.ndarray]:
    """Per cell the smallest, the largest, the middle and the sums between the cell and the middle of its block."""
    blocks = y.reshape(-1, 2 * half)
    middle = blocks[:, half : half + 1]
    y = blocks - middle
    sums = [_outward(blocks, half, np.minimum), _outward(blocks, half, np.maximum)]
    sums += [np.repeat(middle, 2 * half), _outward(y, half, np.add), _outward(y * y, half, np.add)]
    if t is not None:
        blocks = t.reshape(-1, 2 * half)
        t = blocks - blocks[:, half : half + 1]
        sums += [_outward(terms, half, np.add) for terms in (t, t * t, t * y)]
    return sums


def _outward(blocks: np.ndarray, half: int, add: np.ufunc) -> np.ndarray:
    running = np.empty_like(blocks)
    add.accumulate(blocks[:, half:], axis=1, out=running[:, half:])
    add.accumulate(blocks[:, half - 1 :: -1], axis=1, out=running[:, half - 1 :: -1])
    return running.ravel()


@dataclass(frozen=True)
class _Question:
    """One range per question, on its way through the levels."""

    count: np.ndarray
    first: np.ndarray
    last: np.ndarray
    by_level: np.ndarray
    """Questions of more than one value, by the level at which their range crosses a middle."""
    level_start: np.ndarray
    found: list[np.ndarray]
    """Smallest, largest, shift, and sums of differences to the shift."""

    @classmethod
    def of(cls, base: np.ndarray, asked: Range, y: np.ndarray, timed: bool) -> _Question:
        count = asked.end - asked.first
        first, last = base + asked.first, base + asked.end - 1
        many = np.flatnonzero(count > 1)
        level = np.frexp((first[many] ^ last[many]).astype("float64"))[1] - 1
        by_level = many[np.argsort(level, kind="stable")]
        level_start = np.searchsorted(np.sort(level), np.arange(66))
        alone = np.where(count > 0, y[np.where(count > 0, first, 0)], np.nan)
        sums = [np.where(count > 0, 0.0, np.nan) for _ in range(5 if timed else 2)]
        return cls(count, first, last, by_level, level_start, [alone, alone.copy(), alone.copy(), *sums])

    def _at(self, level: int) -> np.ndarray:
        return self.by_level[self.level_start[level] : self.level_start[level + 1]]

    def asks(self, level: int) -> bool:
        return len(self._at(level)) > 0

    def take(self, level: int, sums: list[np.ndarray]) -> None:
        at = self._at(level)
        first, last = self.first[at], self.last[at]
        low, high, middle, *added = sums
        self.found[0][at] = np.minimum(low[first], low[last])
        self.found[1][at] = np.maximum(high[first], high[last])
        self.found[2][at] = middle[first]
        for into, sum_ in zip(self.found[3:], added, strict=True):
            into[at] = sum_[first] + sum_[last]

    def answer(self) -> Moments:
        low, high, shift, y, yy, *timed = self.found
        count = np.maximum(self.count, 1)
        time_square = product = np.zeros(0)
        if timed:
            t, tt, ty = timed
            time_square, product = np.maximum(tt - t * t / count, 0.0), ty - t * y / count
        return Moments(
            self.count, shift + y / count, np.maximum(yy - y * y / count, 0.0), low, high, time_square, product
        )


class OrderStatistics:
    """Which value of a range is the k-th smallest, and how many are below a bound: a wavelet matrix.

    O(log n) vectorised steps for any number of questions (Claude, Navarro & Ordóñez 2015).
    """

    def __init__(self, values: np.ndarray) -> None:
        self.distinct, ranks = np.unique(values, return_inverse=True)
        self.bits = max(len(self.distinct), 1).bit_length()
        self.zeros = []
        for bit in reversed(range(self.bits)):
            low = (ranks >> bit) & 1 == 0
            zeros = np.zeros(len(values) + 1, dtype="int64")
            np.cumsum(low, out=zeros[1:])
            self.zeros.append(zeros)
            ranks = np.concatenate([ranks[low], ranks[~low]])

    def smallest(self, first: np.ndarray, end: np.ndarray, k: np.ndarray) -> np.ndarray:
        """The k-th smallest, from 0, of ``values[first:end]``; NaN where the range is empty.

        >>> ordered = OrderStatistics(np.array([5.0, 1.0, 3.0]))
        >>> ordered.smallest(np.array([0, 1, 1]), np.array([3, 3, 1]), np.array([1, 1, 0]))
        array([ 3.,  3., nan])
        """
        empty = end <= first
        rank = np.zeros(len(first), dtype="int64")
        for bit, zeros in zip(reversed(range(self.bits)), self.zeros, strict=True):
            first_low, end_low = zeros[first], zeros[end]
            low = end_low - first_low
            up = k >= low
            k = np.where(up, k - low, k)
            first = np.where(up, zeros[-1] + first - first_low, first_low)
            end = np.where(up, zeros[-1] + end - end_low, end_low)
            rank += up.astype("int64") << bit
        found = np.full(len(rank), np.nan)
        found[~empty] = self.distinct[rank[~empty]]
        return found

    def below(self, first: np.ndarray, end: np.ndarray, bound: np.ndarray) -> np.ndarray:
        """How many of ``values[first:end]`` are smaller than the bound.

        >>> OrderStatistics(np.array([5.0, 1.0, 3.0])).below(np.array([0, 1]), np.array([3, 3]), np.array([5.0, 2.0]))
        array([2, 1])
        """
        rank = np.searchsorted(self.distinct, bound)
        count = np.zeros(len(first), dtype="int64")
        for bit, zeros in zip(reversed(range(self.bits)), self.zeros, strict=True):
            first_low, end_low = zeros[first], zeros[end]
            up = (rank >> bit) & 1 == 1
            count += np.where(up, end_low - first_low, 0)
            first = np.where(up, zeros[-1] + first - first_low, first_low)
            end = np.where(up, zeros[-1] + end - end_low, end_low)
        return count
