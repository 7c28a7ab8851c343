"""Channel ids: which channel does each element of a tensor belong to?

A tensor's ids are an integer array of the tensor's own shape, without the batch axis. A layer
that only moves values moves ids by the same NumPy function, so Flatten is `reshape` and Permute is
`transpose`; there are no index maps. The ids of a tensor change along one axis at most: the one on
which its channels lie. Along the others (height, width) the array is a broadcast view, so it takes
no more memory than its channels.
"""

import numpy as np


class ChannelIds:
    """Makes ids, and remembers which of them name the same channel and which must stay."""

    def __init__(self) -> None:
        self.count = 0
        # (name of the maker, its ids): each maker must keep at least one channel.
        self.makers: list[tuple[str, np.ndarray]] = []
        self._equal: list[np.ndarray] = []
        self._held: list[tuple[np.ndarray, str]] = []

    def make(self, maker: str, count: int) -> np.ndarray:
        """New ids of shape `(count,)` for the channels that a layer makes."""
        ids = np.arange(self.count, self.count + count)
        self.count += count
        self.makers.append((maker, ids))
        return ids

    def merge(self, a: np.ndarray, b: np.ndarray) -> None:
        """Element by element, `a` and `b` are from now on the same channel."""
        a, b = np.broadcast_arrays(core(a), core(b))
        self._equal.append(np.stack([a.ravel(), b.ravel()]))

    def hold(self, ids: np.ndarray, reason: str) -> None:
        """These channels must stay; the first reason given is the one that is told."""
        self._held.append((core(ids).ravel(), reason))

    def along(self, ids: np.ndarray, axis: int) -> np.ndarray:
        """Make ids change along one axis only; return them, shape `(channels,)`.

        Where ids change along other axes as well, several channels are one from now on: a tensor
        whose channels are gone is still a box.
        """
        rows = np.moveaxis(core(ids, but=axis), axis, -1).reshape(-1, ids.shape[axis])
        for row in rows[1:]:
            self.merge(rows[0], row)
        return rows[0]

    def labels(self) -> np.ndarray:
        """For each id the number of its channel, counted from 0, after all merging."""
        roots = connected(self.count, self._equal)
        return np.unique(roots, return_inverse=True)[1]

    def reasons(self, labels: np.ndarray) -> dict[int, str]:
        """For each channel that must stay, why."""
        why: dict[int, str] = {}
        for ids, reason in self._held:
            for label in np.unique(labels[ids]).tolist():
                why.setdefault(label, reason)
        return why


def core(ids: np.ndarray, but: int | None = None) -> np.ndarray:
    """The part of a broadcast view that carries information: length 1 along the other axes.

    Example:
        >>> core(spread(np.array([4, 5]), -1, (8, 8, 2))).shape
        (1, 1, 2)
    """
    but = None if but is None else but % ids.ndim
    return ids[tuple(slice(1 if s == 0 and a != but else None) for a, s in enumerate(ids.strides))]


def along_axis(ids: np.ndarray, axis: int) -> np.ndarray:
    """The ids (or channels) along one axis, at the start of all others, shape `(n,)`."""
    return ids[tuple(slice(None) if a == axis % ids.ndim else 0 for a in range(ids.ndim))]


def spread(ids: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """A view of `shape` in which the ids run along `axis` and repeat along the others."""
    lengths = [1] * len(shape)
    if shape:
        lengths[axis] = len(ids)
    return np.broadcast_to(ids.reshape(lengths), shape)


def tighten(ids: np.ndarray) -> np.ndarray:
    """The same ids, as a broadcast view along every axis on which they do not change."""
    least = core(ids)
    for axis in range(ids.ndim):
        first = least.take([0], axis)
        if (least == first).all():
            least = first
    return np.broadcast_to(least, ids.shape)


def varying(ids: np.ndarray) -> list[int]:
    """The axes along which the ids change."""
    return [axis for axis, length in enumerate(core(tighten(ids)).shape) if length > 1]


def connected(count: int, pairs: list[np.ndarray]) -> np.ndarray:
    """The least member of the component of each of `count` nodes; `pairs` are `(2, n)` edges."""
    root = np.arange(count)
    a, b = np.concatenate([np.empty((2, 0), int), *pairs], axis=1)
    while True:
        before = root.copy()
        least = np.minimum(root[a], root[b])
        # The roots themselves are lowered, not only the nodes, so that whole trees move at once.
        for node in (a, b, root[a], root[b]):
            np.minimum.at(root, node, least)
        root = root[root]
        if (root == before).all():
            return root
