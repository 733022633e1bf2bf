"""A cluster in one process that speaks the stream and the HTTP that the SDK uses, with faults on demand.

It keeps whole bytes, no pages: enough to be a faithful partner for a client, not a model of the product. All nodes
share one state, so a retry on another node meets the same table of seats.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import msgspec
from aiohttp import WSMsgType, web
from lastgood.codes import CODES

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode
PAGE = 4096


class Refuse(Exception):
    def __init__(self, code: str, detail: str = "", **extra: Any) -> None:
        super().__init__(code)
        row = CODES[code]
        self.status = row.status
        self.problem = {
            "type": f"urn:lastgood:{code}",
            "title": row.title,
            "status": row.status,
            "detail": detail or row.title,
            "code": code,
            "retryable": row.retryable,
            **extra,
        }


class FakeSpace:
    def __init__(self, name: str, uid: int, page_size: int) -> None:
        self.name, self.uid, self.page_size = name, uid, page_size
        self.epoch, self.lvc, self.content = uid, 0, b""
        self.snapshots: list[dict[str, Any]] = []
        self.kept: dict[int, bytes] = {}
        self.history: dict[int, bytes] = {0: b""}
        self.wal: list[dict[str, Any]] = []
        self.policy: dict[str, Any] = {}

    def pages(self) -> int:
        content = self.content
        return sum(any(content[at : at + PAGE]) for at in range(0, len(content), PAGE))

    def shown(self) -> dict[str, Any]:
        defaults = {"dirty_ratio": 0.15, "dirty_pages_min": 16, "lvc_delta": 10000, "interval_s": 0, "ring": 16}
        return {
            "name": self.name,
            "uid": self.uid,
            "page_size": self.page_size,
            "max_pages": 16777216,
            "size": len(self.content),
            "pages": self.pages(),
            "lvc": self.lvc,
            "epoch": self.epoch,
            "state": "active",
            "dirty_pages": 0,
            "baseline_dirty_pages": 0,
            "dirty_ratio": 0.0,
            "baseline": None,
            "last_snapshot": self.snapshots[-1]["id"] if self.snapshots else None,
            "undo_from_lvc": 0,
            "policy": {**defaults, "ttl_s": None, "undo_bytes": 67108864, **self.policy},
            "created": "2026-01-01T00:00:00Z",
        }


class FakeCluster:
    """State that all fake nodes share, and switches for faults."""

    def __init__(self) -> None:
        self.spaces: dict[str, FakeSpace] = {}
        self.sessions: dict[int, dict[int, tuple[int, Any]]] = {}
        self.acks: dict[int, int] = {}
        self.keys: dict[str, Any] = {}
        self.next_uid = 1
        self.applied: list[tuple[str, dict[str, Any]]] = []
        self.messages: list[int] = []  # operations in each message that came
        self.refuse: list[str] = []  # codes with which the next changes are turned away at the door
        self.drop_before = 0  # messages that are lost with their connection, unapplied
        self.drop_after = 0  # messages that are applied, then the connection breaks
        self.drop_writes = False  # every message with a write is applied, and its connection breaks
        self.mute: set[int] = set()  # nodes that take messages and never answer
        self.turn_away = 0  # status with which new connections are refused
        self.leader = 0
        self.urls: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.fail_writes_from: int | None = None  # offset from which writes meet storage_full

    def forget_sessions(self) -> None:
        self.sessions.clear()
        self.acks.clear()

    # -------------------------------------------------------- operations

    def run(self, op: str, args: dict[str, Any]) -> tuple[int, Any]:
        """One operation with its seat: status and body."""
        handler = getattr(self, f"op_{op}", None)
        try:
            if handler is None:
                raise Refuse("bad_request", f"no operation {op}")
            changing = op[:3] not in ("get", "lis", "dif") and not args.get("dry_run")
            if changing and self.refuse:
                raise Refuse(self.refuse.pop(0))
            session = args.pop("session", None)
            seq, ack = args.pop("seq", None), args.pop("ack", None)
            if changing and session is not None:
                return self._seated(op, handler, args, session, seq, ack)
            return self._decide(op, handler, args)
        except Refuse as refusal:
            return refusal.status, refusal.problem

    def _seated(self, op: str, handler: Any, args: dict[str, Any], session: int, seq: int, ack: int) -> tuple[int, Any]:
        seats = self.sessions.get(session)
        if seats is None:
            raise Refuse("gone", f"session {session} has ended")
        if seq < self.acks[session]:
            raise Refuse("gone", f"seat {seq} lies below the window")
        self.acks[session] = max(self.acks[session], ack)
        for old in [old for old in seats if old < self.acks[session]]:
            del seats[old]
        if seq not in seats:
            try:
                seats[seq] = self._decide(op, handler, args)
            except Refuse as refusal:
                seats[seq] = refusal.status, refusal.problem
        return seats[seq]

    def _decide(self, op: str, handler: Any, args: dict[str, Any]) -> tuple[int, Any]:
        self.applied.append((op, args))
        answer = handler(**args)
        return answer if isinstance(answer, tuple) else (200, answer)

    def find(self, name: str, epoch: int | None = None) -> FakeSpace:
        found = self.spaces.get(name)
        if found is None:
            raise Refuse("not_found", f"there is no space {name}")
        if epoch is not None and epoch != found.epoch:
            raise Refuse("stale_epoch", f"epoch {epoch}, the space is at {found.epoch}", epoch=found.epoch)
        return found

    def op_postSession(self, idempotency_key: str) -> Any:
        if idempotency_key not in self.keys:
            number = self.next_uid
            self.next_uid += 1
            self.sessions[number], self.acks[number] = {}, 1
            self.keys[idempotency_key] = (201, {"session": number, "window": 64, "idle_s": 3600})
        return self.keys[idempotency_key]

    def op_putSpace(self, space: str, page_size: int | None = None, policy: Any = None, **other: Any) -> Any:
        found = self.spaces.get(space)
        if found is not None:
            if page_size is not None and page_size != found.page_size:
                raise Refuse("conflict", f"page_size is {found.page_size}")
            return 200, found.shown()
        found = self.spaces[space] = FakeSpace(space, self.next_uid, page_size or PAGE)
        found.policy = policy or {}
        self.next_uid += 1
        if other.get("from"):
            source = self.find(other["from"]["space"])
            found.content = source.kept[self.snap(source, other["from"]["snapshot"])["id"]]
            found.history[0] = found.content
        return 201, found.shown()

    def op_getSpace(self, space: str, consistency: str = "") -> Any:
        return self.find(space).shown()

    def op_listSpaces(
        self, limit: int = 100, after: str | None = None, prefix: str | None = None, consistency: str = ""
    ) -> Any:
        names = sorted(n for n in self.spaces if n > (after or "") and n.startswith(prefix or ""))
        return [self.spaces[name].shown() for name in names[:limit]]

    def op_deleteSpace(self, space: str, epoch: int | None = None) -> Any:
        self.find(space, epoch)
        del self.spaces[space]
        return 204, None

    def op_putData(self, space: str, offset: int, data: bytes, epoch: int | None = None) -> Any:
        return self.op_postTx(space, [{"offset": offset, "data": data}], epoch=epoch)

    def op_postTx(
        self, space: str, writes: Any = (), size: Any = None, epoch: Any = None, tx_id: Any = None, **other: Any
    ) -> Any:
        found = self.find(space, epoch)
        condition = other.get("if") or {}
        if condition.get("lvc") not in (None, found.lvc):
            raise Refuse("conflict", f"lvc is {found.lvc}")
        if self.fail_writes_from is not None and any(w["offset"] >= self.fail_writes_from for w in writes):
            raise Refuse("storage_full", "no room")
        content = bytearray(found.content)
        for write in writes:
            offset, piece = write["offset"], write["data"]
            before = bytes(content[offset : offset + len(piece)])
            content.extend(bytes(max(0, offset + len(piece) - len(content))))
            content[offset : offset + len(piece)] = piece
            self._log(found, offset, len(piece), before, tx_id)
        if size is not None:
            content = content[:size] + bytes(max(0, size - len(content)))
        found.content = bytes(content)
        found.lvc += 1
        if len(content) < 1 << 20:
            found.history[found.lvc] = found.content
        return {"lvc": found.lvc, "epoch": found.epoch, "log_seq": len(found.wal), "tx_id": tx_id or f"t{found.lvc}"}

    def _log(self, found: FakeSpace, offset: int, length: int, before: bytes, tx_id: Any) -> None:
        found.wal.append(
            {"log_seq": len(found.wal) + 1, "tx_id": tx_id or f"t{found.lvc + 1}", "lvc": found.lvc + 1}
            | {"epoch": found.epoch, "index": 7, "offset": offset, "length": length, "before": before}
            | {"size_before": len(found.content), "before_crc": 1, "after_crc": 2, "at": "2026-01-01T00:00:00Z"}
        )

    def op_getData(
        self, space: str, offset: int = 0, length: int = 1 << 40, at_lvc: Any = None, consistency: str = ""
    ) -> Any:
        found = self.find(space)
        if at_lvc is not None and at_lvc not in found.history:
            raise Refuse("outside_window", "not kept", oldest_lvc=min(found.history), newest_lvc=found.lvc)
        content = found.content if at_lvc is None else found.history[at_lvc]
        return self._piece(found, content, offset, length)

    def _piece(self, found: FakeSpace, content: bytes, offset: int, length: int) -> Any:
        if offset > len(content):
            raise Refuse("range_not_satisfiable", f"the space has {len(content)} bytes")
        return {
            "data": content[offset : offset + length],
            "offset": offset,
            "size": len(content),
            "lvc": found.lvc,
            "epoch": found.epoch,
            "index": 9,
            "uid": found.uid,
            "etag": f'"{found.uid}-{found.epoch}-{found.lvc}"',
        }

    def op_getSnapshotData(self, space: str, snapshot: str, offset: int = 0, length: int = 1 << 40) -> Any:
        found = self.find(space)
        return self._piece(found, found.kept[self.snap(found, snapshot)["id"]], offset, length)

    def op_getWal(self, space: str, from_seq: int = 0, limit: int = 100) -> Any:
        found = self.find(space)
        # Short pages on purpose: a real answer is bounded in bytes too.
        return [record for record in found.wal if record["log_seq"] >= from_seq][: min(limit, 2)]

    def op_getPages(self, space: str, limit: int = 100, **other: Any) -> Any:
        first, found = other.get("from", 0), self.find(space)
        pages = range(first, min(first + limit, -(-len(found.content) // PAGE)))
        return [{"page": page, "version": 1, "digest": None, "dirty": False} for page in pages]

    # -------------------------------------------------------- snapshots

    def snap(self, found: FakeSpace, ref: str) -> dict[str, Any]:
        for one in reversed(found.snapshots):
            if str(one["id"]) == ref or f"@{one['label']}" == ref:
                return one
        raise Refuse("not_found", f"{found.name} has no snapshot {ref}")

    def op_createSnapshot(
        self, space: str, label: Any = None, kind: str = "auto", ttl_s: Any = None, pin: bool = False, epoch: Any = None
    ) -> Any:
        found = self.find(space, epoch)
        number = len(found.kept) + 1
        one = {"id": number, "label": label, "space": space, "uid": found.uid, "kind": "full", "reason": "requested"}
        one |= {"base": None, "lvc": found.lvc, "epoch": found.epoch, "root": "00" * 16, "size": len(found.content)}
        one |= {"pages": found.pages(), "dirty_pages": 1, "bytes": PAGE, "index": 5, "expires": None}
        one |= {"created": "2026-01-01T00:00:00Z", "pins": ["default"] if pin else []}
        found.snapshots.append(one)
        found.kept[number] = found.content
        return 201, one

    def op_createSnapshots(self, spaces: Any = None, prefix: Any = None, **rest: Any) -> Any:
        names = spaces or sorted(name for name in self.spaces if name.startswith(prefix))
        made = [self.op_createSnapshot(name, **rest)[1] for name in names]
        return 201, {"index": 5, "snapshots": made}

    def op_listSnapshots(self, space: str, limit: int = 100, before: int | None = None) -> Any:
        newest = reversed(self.find(space).snapshots)
        return [one for one in newest if before is None or one["id"] < before][:limit]

    def op_getSnapshot(self, space: str, snapshot: str) -> Any:
        return self.snap(self.find(space), snapshot)

    def op_deleteSnapshot(self, space: str, snapshot: str, epoch: Any = None) -> Any:
        found = self.find(space, epoch)
        one = self.snap(found, snapshot)
        if one["pins"]:
            raise Refuse("pinned", f"snapshot {one['id']} is pinned by {one['pins']}")
        found.snapshots.remove(one)
        return 204, None

    def op_pinSnapshot(self, space: str, snapshot: str, holder: str = "default", epoch: Any = None) -> Any:
        one = self.snap(self.find(space, epoch), snapshot)
        one["pins"] = sorted({*one["pins"], holder})
        return one

    def op_unpinSnapshot(self, space: str, snapshot: str, holder: str = "default", epoch: Any = None) -> Any:
        one = self.snap(self.find(space, epoch), snapshot)
        one["pins"] = [pin for pin in one["pins"] if pin != holder]
        return one

    def op_diffSnapshots(self, space: str, a: str, b: str) -> Any:
        found = self.find(space)
        left = found.kept[self.snap(found, a)["id"]]
        right = found.content if b == "live" else found.kept[self.snap(found, b)["id"]]
        ranges = self._ranges(left, right)
        pages = sum(count for _, count in ranges)
        return {"pages_changed": pages, "bytes_changed": pages * PAGE, "ranges": ranges}

    def _ranges(self, left: bytes, right: bytes) -> list[tuple[int, int]]:
        end = max(len(left), len(right))
        return [(at // PAGE, 1) for at in range(0, end, PAGE) if left[at : at + PAGE] != right[at : at + PAGE]]

    def op_postRollback(
        self, space: str, to: Any = None, lvc: Any = None, epoch: Any = None, dry_run: bool = False, **other: Any
    ) -> Any:
        found = self.find(space, epoch)
        if lvc is not None and lvc not in found.history:
            raise Refuse("outside_window", "not kept", oldest_lvc=min(found.history), newest_lvc=found.lvc)
        target = None if to is None else self.snap(found, str(to))
        content = found.history[lvc] if target is None else found.kept[target["id"]]
        ranges = self._ranges(found.content, content)
        if dry_run:
            return {"dry_run": True, "pages_changed": len(ranges), "ranges": ranges}
        left = self.op_createSnapshot(space)[1]
        from_lvc, found.content = found.lvc, content
        found.lvc, found.epoch = found.lvc + 1, found.epoch + 1
        found.history[found.lvc] = content
        done = {"lvc": found.lvc, "epoch": found.epoch, "from_lvc": from_lvc, "left_snapshot": left["id"]}
        done |= {"to_lvc": lvc if target is None else target["lvc"], "snapshot": target and target["id"]}
        return done | {"pages_reverted": len(ranges), "verified": True, "took_ms": 1.5}

    # -------------------------------------------------------- cluster

    def op_getCluster(self) -> Any:
        nodes = [
            {"id": f"n{at + 1}", "http": url, "raft": "h:1", "bulk": "h:2", "reachable": True, "state": "ready"}
            | {"role": "leader" if at == self.leader else "follower", "match_index": 10, "lag_entries": 0}
            for at, url in enumerate(self.urls)
        ]
        leader = f"n{self.leader + 1}"
        return {"cluster_id": "c", "leader": leader, "term": 3, "commit_index": 10, "applied_index": 10, "nodes": nodes}

    def op_listTransfers(self) -> Any:
        return []


class FakeNode:
    """One node's HTTP server on an ephemeral port."""

    def __init__(self, cluster: FakeCluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.url = ""
        self.connections: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=80 << 20)
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/spaces/{space}/tx", self._tx)
        app.router.add_get("/v1/spaces/{space}/data", self._read)
        app.router.add_get("/v1/spaces/{space}/snapshots/{snapshot}/data", self._read)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for ws in list(self.connections):
            transport = ws._req.transport if ws._req is not None else None
            if transport is not None:
                transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.cluster.turn_away:
            return web.Response(status=self.cluster.turn_away)
        ws = web.WebSocketResponse(max_msg_size=4 << 20, compress=False)
        await ws.prepare(request)
        self.connections.add(ws)
        try:
            async for message in ws:
                if message.type is not WSMsgType.BINARY:
                    break
                if not await self._message(ws, request, message.data):
                    break
        finally:
            self.connections.discard(ws)
        return ws

    async def _message(self, ws: web.WebSocketResponse, request: web.Request, raw: bytes) -> bool:
        """Handles one message; False when the connection was broken on purpose."""
        cluster = self.cluster
        asked = unpack(raw)
        cluster.messages.append(len(asked))
        changing = any(op not in ("getCluster", "postSession") for _, op, _ in asked)
        if changing and cluster.drop_before:
            cluster.drop_before -= 1
            request.transport.abort()
            return False
        if self.number in cluster.mute:
            return True
        answers = [(number, *cluster.run(op, args)) for number, op, args in asked]
        writes = any(op == "putData" for _, op, _ in asked)
        if (changing and cluster.drop_after) or (writes and cluster.drop_writes):
            cluster.drop_after -= not cluster.drop_writes
            request.transport.abort()
            return False
        await ws.send_bytes(pack(answers))
        return True

    async def _tx(self, request: web.Request) -> web.Response:
        body = unpack(await request.read())
        key = request.headers["Idempotency-Key"]
        cluster = self.cluster
        if key not in cluster.keys:
            try:
                found = cluster.op_postTx(
                    request.match_info["space"], **body, epoch=int(request.query.get("epoch", 0)) or None
                )
                cluster.keys[key] = (200, found)
            except Refuse as refusal:
                cluster.keys[key] = (refusal.status, refusal.problem)
        if cluster.drop_after:
            cluster.drop_after -= 1
            request.transport.abort()
        status, answer = cluster.keys[key]
        return self._answer(status, answer)

    async def _read(self, request: web.Request) -> web.Response:
        match, query, cluster = request.match_info, request.query, self.cluster
        offset, length = int(query.get("offset", 0)), int(query.get("length", 1 << 40))
        try:
            if "snapshot" in match:
                got = cluster.op_getSnapshotData(match["space"], match["snapshot"], offset, length)
            else:
                at_lvc = int(query["at_lvc"]) if "at_lvc" in query else None
                got = cluster.op_getData(match["space"], offset, length, at_lvc)
        except Refuse as refusal:
            return self._answer(refusal.status, refusal.problem)
        headers = {"X-Lastgood-LVC": str(got["lvc"]), "X-Lastgood-Epoch": str(got["epoch"]), "ETag": got["etag"]}
        return web.Response(body=got["data"], headers=headers)

    def _answer(self, status: int, body: Any) -> web.Response:
        kind = "application/json" if status < 400 else "application/problem+json"
        return web.Response(status=status, body=json.dumps(body).encode(), content_type=kind)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        after = int(request.query.get("index", len(self.cluster.events)))
        types = re.split(",", request.query["types"]) if "types" in request.query else None
        sent = 0
        while True:
            for event in self.cluster.events[after:]:
                after = event["seq"]
                if types is None or event["type"] in types:
                    text = f": hello\nid: {event['seq']}\ndata: {json.dumps(event)}\n\n"
                    await response.write(text.encode())
                    sent += 1
            if self.cluster.drop_after and sent:
                self.cluster.drop_after -= 1
                request.transport.abort()
                return response
            await asyncio.sleep(0.01)
