"""Binding: the table and the argument structs agree, and a bad table is noticed at import."""

import pytest

from cluster.api import args
from cluster.api.hosts import HostRule, host_name
from cluster.api.operations import HIDDEN, OPERATIONS, Operation
from cluster.api.problem import ProblemError
from cluster.api.requests import BINDERS, Binder, parse_query
from cluster.api.router import Router


def test_every_argument_is_found_somewhere():
    for row in OPERATIONS:
        binder = BINDERS[row.id]
        reached = set(binder.params.__struct_encode_fields__) | set(binder.body.__struct_encode_fields__)
        if row.body == "raw":
            reached.add("data")
        assert reached | HIDDEN >= set(row.args.__struct_encode_fields__), row.id


def test_a_table_that_names_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="disagree"):
        Binder(Operation("x", "GET", "/x/{space}", args.GetSpace, "", {200: None}, query=("limit",)))
    with pytest.raises(ValueError, match="disagree"):
        Binder(Operation("x", "POST", "/x/{space}", args.CreateSnapshot, "", {200: None}))


def test_query_pairs():
    assert parse_query("") == []
    assert parse_query("a=1&b=%2B&c=x+y&d") == [("a", "1"), ("b", "+"), ("c", "x y"), ("d", "")]
    for bad in ("=1", "a=1&", "a=%ff"):
        with pytest.raises(ProblemError):
            parse_query(bad)


def test_routes_of_all_operations():
    router = Router(OPERATIONS)
    for row in OPERATIONS:
        path = row.path.replace("{", "").replace("}", "")
        route = router.route(row.method, path)
        assert route.operation is row
        assert route.path_args == {name: name for name in route.path_args}


def test_a_named_segment_is_no_parameter():
    router = Router(OPERATIONS)
    with pytest.raises(ProblemError) as refused:
        router.route("GET", "/v1/spaces/a/nothing")
    assert refused.value.answer.status == 404


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:80", "localhost"),
        ("[::1]:7801", "::1"),
        ("a.b.", "a.b"),
        ("", None),
        ("::1", None),
        ("a b", None),
        ("a@b", None),
        ("a:b", None),
        ("a:80:80", None),
        ("a/b", None),
        (".", None),
    ],
)
def test_host_names(text, name):
    assert host_name(text) == name


def test_the_address_that_was_reached_is_ours():
    rule = HostRule([])
    assert rule.allows_host("10.1.2.3:7801", "10.1.2.3")
    assert not rule.allows_host("10.1.2.3:7801", "10.1.2.4")
    assert not rule.allows_host("evil.example", "10.1.2.3")
    with pytest.raises(ValueError, match="allowed host"):
        HostRule(["a b"])


def test_remembering_hosts_is_bounded():
    rule = HostRule([])
    for number in range(3000):
        assert not rule.allows_host(f"h{number}.example", None)
    assert len(rule._remembered) <= 1024
