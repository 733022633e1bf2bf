"""What drops out of an undo window agrees with counting one record after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.window import UndoWindow


@given(
    counted=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    dead=st.integers(0, 5),
    bytes_max=st.integers(0, 600),
    records_max=st.integers(1, 45),
)
def test_excess_agrees_with_dropping_one_by_one(counted, dead, bytes_max, records_max):
    window = UndoWindow(1, 1)
    for many in [9] * dead + counted:
        window.keys.append(1)
        window.counted.append(many)
    window.head = dead
    window.bytes = sum(counted)
    expected = 0
    left = list(counted)
    while len(left) > 1 and (sum(left) > bytes_max or len(left) > records_max):
        left.pop(0)
        expected += 1
    assert window.excess(bytes_max, records_max) == expected
