"""A game room that survives a bad update: `python examples/room.py http://127.0.0.1:7801`."""

from __future__ import annotations

import asyncio
import sys

import lastgood


async def main(endpoints: str) -> None:
    async with lastgood.connect(endpoints) as store:
        room = await store.space("example-room", create=True)
        await room.write(0, b"players=3 score=17")
        good = await room.snapshot(label="v2.3.0")
        print(f"snapshot {good.id} of {good.size} bytes, root {good.root}")

        await room.write(0, b"players=3 score=\xff\xff")  # the hot update that went wrong
        print("after the update: ", await room.read())

        done = await room.rollback("v2.3.0", reason="score is broken")
        print("after the rollback:", await room.read())
        print(f"{done.pages_reverted} page reverted; what was left is kept as snapshot {done.left_snapshot}")

        async for record in room.wal():
            print(f"  {record.log_seq}: {record.kind} lvc {record.lvc}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7801"))
