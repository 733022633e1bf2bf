"""Consensus: PySyncObj made safe (docs/divergence.md), without I/O inside and on one asyncio loop outside.

Read in this order. What it is for: `seams` (what goes in and comes out), `settings`. The core, no I/O: `core` ties
`engine` (PySyncObj under its own names, loaded by `guard`), `journal_adapter`, `wire` (what leaves waits for the disk),
`normaliser` (what a follower takes), `flow` (what a leader counts), `prevote`, `readindex`, `install`, `membership`,
`proposals` and `applier`. Around it: `replica` with `network`, `link`, `frames`, `syncer`; `identity` of a data folder.
"""
