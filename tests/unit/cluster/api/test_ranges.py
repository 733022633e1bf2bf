"""Ranges, entity tags and durations: the forms of RFC 9110, against a naive twin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api import etags
from cluster.api.answer import Answer
from cluster.api.ranges import BadRange, Span, parse_range, select
from cluster.api.times import parse_wait_ms, rfc3339


def naive(size, first, last):
    """The positions of a range, one by one."""
    if first is None:
        return [position for position in range(size) if position >= size - last]
    return [position for position in range(size) if position >= first and (last is None or position <= last)]


@given(
    size=st.integers(0, 12),
    first=st.none() | st.integers(0, 15),
    last=st.none() | st.integers(0, 15),
)
def test_a_range_selects_what_the_naive_twin_selects(size, first, last):
    if first is None and last is None:
        return
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is not None and last is not None and last < first:
        with pytest.raises(BadRange):
            select(size, range_header=header, offset=None, length=None)
        return
    span = select(size, range_header=header, offset=None, length=None)
    wanted = naive(size, first, last)
    if size == 0:
        assert span == Span(0, 0, 200)
    elif wanted:
        assert span == Span(wanted[0], wanted[-1] + 1, 206)
    else:
        assert isinstance(span, Answer)
        assert (span.status, span.headers) == (416, {"Content-Range": f"bytes */{size}"})


@given(size=st.integers(0, 12), offset=st.none() | st.integers(0, 15), length=st.none() | st.integers(0, 15))
def test_offset_and_length_select_what_slicing_selects(size, offset, length):
    span = select(size, range_header=None, offset=offset, length=length)
    start = offset or 0
    if start > size:
        assert isinstance(span, Answer)
        assert span.status == 416
    else:
        whole = bytes(range(size))
        stop = None if length is None else start + length
        assert whole[span.start : span.stop] == whole[start:stop]
        assert span.status == 200


@pytest.mark.parametrize(
    "header", ["", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=1-2,4-5", "bytes=+1-2", "bytes=1-2x"]
)
def test_bad_ranges(header):
    with pytest.raises(BadRange):
        parse_range(header)


@given(st.text(max_size=20))
def test_no_text_crashes_the_parsers(text):
    try:
        parse_range(text)
    except BadRange:
        pass
    etags.parse_live(text)
    assert etags.if_match_holds(text, '"1-2-3"') in (True, False)
    try:
        parse_wait_ms(text)
    except ValueError:
        pass


def test_live_tags():
    tag = etags.live_etag(7, 9, 12)
    assert tag == '"7-9-12"'
    assert etags.parse_live(tag) == (7, 9, 12)
    for other in ("7-9-12", 'W/"7-9-12"', '"7-9"', '"abc"', "*", '"7-9-12", "7-9-12"'):
        assert etags.parse_live(other) is None, other


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("*", True),
        ('"a"', True),
        ('W/"a"', True),
        ('"a", W/"b" , ""', True),
        ("a", False),
        ('"a" "b"', False),
        ('"a",', False),
        ("", False),
        ('*, "a"', False),
    ],
)
def test_lists_of_tags(header, good):
    assert etags.is_tag_list(header) is good


def test_nothing_there_fails_if_match_and_holds_if_none_match():
    assert not etags.if_match_holds("*", None)
    assert etags.if_none_match_holds("*", None)


@pytest.mark.parametrize(("text", "ms"), [("0s", 0), ("500ms", 500), ("10s", 10_000), ("10m", 600_000)])
def test_waits(text, ms):
    assert parse_wait_ms(text) == ms


@pytest.mark.parametrize("text", ["", "1", "s", "1h", "-1s", "1.5s", "+1s", "1 s", "601s", "11m", "1s\n", "١s"])
def test_bad_waits(text):
    with pytest.raises(ValueError, match="wait is"):
        parse_wait_ms(text)


def test_times_are_rfc_3339_in_utc_with_milliseconds():
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
    assert rfc3339(None) is None
