"""Statistics of many ranges of events at once; each depends only on the events inside its range.

Differences of running sums over all events would be quicker but wrong: they lose precision after one huge outcome, and
they are rounded differently if the events of other groups change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_GROUP = -1


class Range(NamedTuple):
    """The events ``first`` to ``end - 1`` of a group, counted from 0, with ``first <= end``; one entry per query."""

    first: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class Groups:
    """Events of several groups, sorted by group and time."""

    order: np.ndarray
    """Indices of the events that have a group, sorted by group and time."""
    keys: np.ndarray
    """Group and time position of each event in ``order``, combined to one ascending number."""
    start: np.ndarray
    """Position in ``order`` at which each group begins, and the end; length groups + 1."""
    width: int

    @classmethod
    def of(cls, codes: np.ndarray, count: int) -> Groups:
        """Groups from ``codes``: the group (0 to ``count - 1``, or ``NO_GROUP``) of each event in time order."""
        width = len(codes) + 1
        order = np.argsort(codes, kind="stable")
        order = order[np.count_nonzero(codes == NO_GROUP) :]
        keys = codes[order] * width + order
        return cls(order, keys, np.searchsorted(keys, np.arange(count + 1) * width), width)

    def seen(self, codes: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Number of events of the group ``codes`` among the first ``before`` events; 0 for ``NO_GROUP``.

        >>> Groups.of(np.array([0, 1, 0]), 2).seen(np.array([0, 0, 1, -1]), np.array([1, 3, 3, 3])).tolist()
        [1, 2, 1, 0]
        """
        found = np.searchsorted(self.keys, codes * self.width + before) - self.start[codes]
        return np.where(codes == NO_GROUP, 0, found)

    def at(self, codes: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Index of the event at ``position`` within the group ``codes``."""
        return np.asarray(self.order[self.start[codes] + position])

    def cells(self) -> tuple[np.ndarray, int]:
        """First cell of each group and the number of cells; each group begins at a multiple of its rounded size.

        Sizes are rounded up to powers of two. The position of a range in the blocks of :func:`range_moments` therefore
        depends only on its place in the group, not on other groups or later events.
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
    """Moments of the values y in each range, NaN for an empty one; with times t also the sums for a linear fit."""

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

    Method: a disjoint sparse table. Take the largest block of 2^k cells whose middle a range crosses. The range is the
    end of the block's left half and the start of its right half, so it is the sum of two running sums that start at the
    middle. The sums use differences to the value in the middle, which belongs to the range; the cancellation in the sum
    of squares is then at most a factor of n (Chan, Golub & LeVeque 1983).

    Parameters
    ----------
    groups
        Groups of the events.
    codes
        Group of each query.
    values, times
        One finite number per event, in the order of the codes that ``groups`` was made from.
    ranges
        Ranges with one entry per query each.

    Returns
    -------
    list of Moments
        One per element of ``ranges``, with arrays of one entry per query.
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
    queries = [_Query.of(base, asked, y, t is not None) for asked in ranges]
    for level in range(size.bit_length()):
        if any(query.crosses(level) for query in queries):
            sums = _outward_sums(y, t, 1 << level)
            for query in queries:
                query.take(level, sums)
    return [query.moments() for query in queries]


def _outward_sums(y: np.ndarray, t: np.ndarray | None, half: int) -> list[np.ndarray]:
    """For each cell the minimum, maximum, middle value and sums of the cells from the block's middle to the cell."""
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
class _Query:
    """Ranges of all queries and the sums collected for them, level by level."""

    count: np.ndarray
    first: np.ndarray
    last: np.ndarray
    by_level: np.ndarray
    """Queries with more than one value, sorted by the level whose block middle their range crosses."""
    level_start: np.ndarray
    found: list[np.ndarray]
    """Minimum, maximum, shift, and sums of differences to the shift."""

    @classmethod
    def of(cls, base: np.ndarray, asked: Range, y: np.ndarray, timed: bool) -> _Query:
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

    def crosses(self, level: int) -> bool:
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

    def moments(self) -> Moments:
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
    """Wavelet matrix: the k-th smallest value of a range, and the number of values below a bound.

    Takes O(log n) vectorised steps for any number of queries (Claude, Navarro & Ordóñez 2015).
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
        """The k-th smallest value (counted from 0) of ``values[first:end]``; NaN for an empty range.

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
        """Number of ``values[first:end]`` that are smaller than ``bound``.

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
