"""Three doors to one correct store in memory, with bugs to switch on: what the workload and the judge are tested with.

`bug`: none, stale_read (one node shows the state of a while ago), retry_twice (no idempotency table), lost (an
acknowledged write vanishes), differs (one node has another byte), moving (snapshots follow the live state).
"""

import hashlib
import random

import msgspec
from aiohttp import web


class Space:
    def __init__(self, uid):
        self.raw, self.lvc, self.epoch, self.log, self.past, self.snapshots = b"", 0, uid, [], {0: b""}, {}


class FakeStore:
    def __init__(self, bug="", *, seed=0, silence=0.0):
        """`silence`: share of changes that are applied but answered with unknown_outcome."""
        self.spaces, self.keys, self.bug, self.rng, self.silence = {}, {}, bug, random.Random(seed), silence
        self.changes = 0

    def app(self, node):
        app = web.Application()
        base = "/v1/spaces/{space}"
        app.router.add_put(base, self._put)
        app.router.add_post(base + "/tx", self._change(self._tx))
        app.router.add_post(base + "/rollback", self._change(self._rollback))
        app.router.add_post(base + "/snapshots", self._change(self._snapshot))
        app.router.add_get(base + "/data", self._reading(node))
        app.router.add_get(base + "/snapshots/{id}/data", self._snapshot_data)
        app.router.add_get(base + "/snapshots/{id}", self._snapshot_show)
        app.router.add_get(base + "/wal", self._wal)
        return app

    async def _put(self, request):
        name = request.match_info["space"]
        self.spaces.setdefault(name, Space(len(self.spaces) + 1))
        return web.json_response({}, status=201)

    def _change(self, act):
        async def handle(request):
            key, space, body = request.headers.get("Idempotency-Key"), self.spaces[request.match_info["space"]], None
            if key is None or key not in self.keys or self.bug == "retry_twice":
                body = act(space, await asked(request))
                self.changes += 1
                if key is not None:
                    self.keys[key] = body
            else:
                body = self.keys[key]
            if self.rng.random() < self.silence:
                return problem(504, "unknown_outcome")
            return problem(*body) if isinstance(body, tuple) else web.json_response(body)

        return handle

    def _refuse(self, space, body):
        condition = body.get("if") or {}
        if condition.get("epoch", space.epoch) != space.epoch:
            return 409, "stale_epoch"
        if condition.get("lvc", space.lvc) != space.lvc:
            return 409, "conflict"
        return None

    def _tx(self, space, body):
        if refused := self._refuse(space, body):
            return refused
        raw = bytearray(space.raw)
        for write in body["writes"]:
            chunk = write["data"]
            raw.extend(b"\0" * (write["offset"] + len(chunk) - len(raw)))
            raw[write["offset"] : write["offset"] + len(chunk)] = chunk
        space.lvc += 1
        if not (self.bug == "lost" and self.changes % 40 == 39):
            space.raw = bytes(raw)
            space.log.append({"log_seq": len(space.log) + 1, "tx_id": body["tx_id"], "lvc": space.lvc})
        space.past[space.lvc] = space.raw
        return {"lvc": space.lvc, "epoch": space.epoch, "log_seq": len(space.log), "tx_id": body["tx_id"]}

    def _rollback(self, space, body):
        if refused := self._refuse(space, body):
            return refused
        if "to" in body:
            to, raw = space.snapshots[body["to"]][:2]
        else:
            to, raw = body["lvc"], space.past[body["lvc"]]
        was = space.lvc
        space.lvc, space.epoch, space.raw = was + 1, space.epoch + 1, raw
        space.past[space.lvc] = raw
        space.log.append({"log_seq": len(space.log) + 1, "tx_id": None, "lvc": space.lvc, "kind": "rollback"})
        return {"lvc": space.lvc, "epoch": space.epoch, "from_lvc": was, "to_lvc": to}

    def _snapshot(self, space, body):
        number = len(space.snapshots) + 1
        space.snapshots[number] = (space.lvc, space.raw, space.epoch)
        return {"id": number, **self._shown(space, number)}

    def _shown(self, space, number):
        lvc, raw, epoch = space.snapshots[number]
        return {"lvc": lvc, "epoch": epoch, "root": hashlib.sha256(raw).hexdigest()}

    def _reading(self, node):
        async def read(request):
            space = self.spaces[request.match_info["space"]]
            lvc, raw = space.lvc, space.raw
            if self.bug == "stale_read" and node == 2 and lvc > 3 and self.rng.random() < 0.2:
                lvc, raw = lvc - 3, space.past[lvc - 3]
            if self.bug == "differs" and node == 1 and len(raw) > 10 and request.query.get("consistency") == "stale":
                raw = b"!" + raw[1:]
            return part(request, raw, {"X-Lastgood-LVC": str(lvc), "X-Lastgood-Epoch": str(space.epoch)})

        return read

    async def _snapshot_data(self, request):
        space = self.spaces[request.match_info["space"]]
        row = space.snapshots.get(int(request.match_info["id"]))
        if row is None:
            return problem(404, "not_found")
        return part(request, space.raw if self.bug == "moving" else row[1], {})

    async def _snapshot_show(self, request):
        space, number = self.spaces[request.match_info["space"]], int(request.match_info["id"])
        return web.json_response(self._shown(space, number)) if number in space.snapshots else problem(404, "not_found")

    async def _wal(self, request):
        log, start = self.spaces[request.match_info["space"]].log, int(request.query["from_seq"])
        return web.json_response([row for row in log if row["log_seq"] >= start][:1000])


async def asked(request):
    raw = await request.read()
    return msgspec.msgpack.decode(raw) if request.content_type == "application/msgpack" else msgspec.json.decode(raw)


def part(request, raw, headers):
    offset = int(request.query.get("offset", 0))
    length = int(request.query.get("length", len(raw)))
    return web.Response(body=raw[offset : offset + length], headers=headers)


def problem(status, code):
    return web.json_response({"code": code}, status=status, content_type="application/problem+json")
