"""The OpenAPI document is valid, and says what the table says: every operation, nothing else."""

import json

import jsonschema
from lastgood.codes import CODES
from openapi_spec_validator import OpenAPIV31SpecValidator

from cluster.api.bodies import EventBody, SnapshotBody
from cluster.api.openapi import openapi_json
from cluster.api.operations import OPERATIONS
from cluster.api.requests import BINDERS
from cluster.api.stream import DOORS

DOCUMENT = json.loads(openapi_json())
OPERATION = {
    described["operationId"]: (method.upper(), path, described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
}


def test_the_document_is_valid():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


async def test_it_is_what_the_server_serves(door):
    status, headers, body = await door.ask("GET", "/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert body == DOCUMENT


def test_every_operation_is_in_it_and_nothing_else():
    assert {name: where[:2] for name, where in OPERATION.items()} == {
        row.id: (row.method, row.path) for row in OPERATIONS
    }


def test_every_parameter_is_in_it_and_nothing_else():
    for row in OPERATIONS:
        described = {(entry["in"], entry["name"]) for entry in OPERATION[row.id][2]["parameters"]}
        path = {("path", piece[1:-1]) for piece in row.path.split("/") if piece.startswith("{")}
        query = {("query", name) for name in row.query}
        headers = {("header", name) for name in row.headers.values()}
        assert described == path | query | headers, row.id


def test_every_changing_operation_takes_an_idempotency_key():
    for row in OPERATIONS:
        names = {entry["name"] for entry in OPERATION[row.id][2]["parameters"]}
        assert ("Idempotency-Key" in names) == row.changing, row.id
        assert row.changing == (row.method != "GET"), row.id


def test_every_code_of_the_table_is_documented_somewhere():
    told = {code for _, _, described in OPERATION.values() for answer in described["responses"].values()
            for code in answer.get("x-codes", ())}  # fmt: skip
    # method_not_allowed and unknown paths belong to no operation; tokens come later.
    assert set(CODES) - told == {"method_not_allowed", "unauthorized"}


def test_the_documented_status_of_a_code_is_the_tables():
    for _, _, described in OPERATION.values():
        for status, answer in described["responses"].items():
            for code in answer.get("x-codes", ()):
                assert CODES[code].status == int(status)
                assert "application/problem+json" in answer["content"]


def test_which_operations_the_stream_takes_is_told():
    assert {name for name, (_, _, described) in OPERATION.items() if described["x-stream"]} == set(DOORS)


def test_request_schemas_judge_as_the_decoder_does():
    schema = {"$ref": "#/components/schemas/PutSpaceBody", "components": DOCUMENT["components"]}
    judge = jsonschema.Draft202012Validator(schema)
    for body, good in [
        ({}, True),
        ({"page_size": 4096, "policy": {"dirty_ratio": 1}}, True),
        ({"page_size": 5000}, False),
        ({"policy": {"ring": 0}}, False),
        ({"unknown": 1}, False),
    ]:
        assert judge.is_valid(body) is good, body
        try:
            BINDERS["putSpace"].bind({"space": "a"}, "", [], json.dumps(body).encode())
            decoded = True
        except Exception:
            decoded = False
        assert decoded is good, body


def test_limits_and_defaults_are_told():
    described = {entry["name"]: entry["schema"] for entry in OPERATION["listSpaces"][2]["parameters"]}
    assert (described["limit"]["default"], described["limit"]["maximum"]) == (100, 1000)
    assert described["consistency"]["enum"] == ["linearizable", "stale"]


def test_members_of_answers_are_the_contracts():
    schemas = DOCUMENT["components"]["schemas"]
    assert list(schemas["SnapshotBody"]["properties"]) == list(SnapshotBody.__struct_fields__)
    assert set(EventBody.__struct_fields__) == {"seq", "index", "type", "space", "at", "node"}
    assert schemas["SpaceBody"]["required"] == list(schemas["SpaceBody"]["properties"])
