"""Channel ids are arrays: what moves values moves ids."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kprune.ids import ChannelIds, connected, core, spread, tighten, varying


def test_spread_takes_no_more_memory_than_the_channels() -> None:
    ids = spread(np.arange(3), -1, (1000, 1000, 3))

    assert ids.shape == (1000, 1000, 3)
    assert ids.strides[:2] == (0, 0)
    assert core(ids).ravel().tolist() == [0, 1, 2]


def test_tighten_finds_the_axis_on_which_ids_change() -> None:
    copied = np.array(spread(np.arange(3), -1, (4, 5, 3)))

    assert varying(copied) == [2]
    assert core(tighten(copied)).shape == (1, 1, 3)


def test_flatten_is_reshape() -> None:
    flat = spread(np.array([7, 8]), -1, (2, 2, 2)).reshape(-1)

    assert flat.tolist() == [7, 8] * 4


def test_a_reader_along_another_axis_merges_what_it_reads_as_one() -> None:
    ids = ChannelIds()
    made = ids.make("conv", 3)
    transposed = spread(made, 0, (3, 4))

    ids.along(transposed, axis=-1)

    assert len(set(ids.labels().tolist())) == 1


def test_merged_channels_get_one_number_and_the_first_reason() -> None:
    ids = ChannelIds()
    a, b = ids.make("a", 2), ids.make("b", 2)
    ids.merge(a, b)
    ids.hold(b[:1], "first")
    ids.hold(a, "second")

    labels = ids.labels()

    assert labels[a].tolist() == labels[b].tolist()
    assert ids.reasons(labels) == {labels[0]: "first", labels[1]: "second"}


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_connected_agrees_with_a_plain_search(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = case
    near: dict[int, set[int]] = {node: {node} for node in range(count)}
    for a, b in edges:
        union = near[a] | near[b]
        for node in union:
            near[node] = union

    roots = connected(count, [np.array(edges, int).reshape(-1, 2).T])

    assert roots.tolist() == [min(near[node]) for node in range(count)]
