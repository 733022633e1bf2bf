"""The same work on etcd, side by side in one run, where `etcd` and `etcdctl` are on the PATH."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from benchmarks import writes
from benchmarks.grpc_load import load, message
from benchmarks.harness import VALUE_BYTES, Report
from cluster.local import free_ports

PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
NODES = 3
READY_S = 30.0


def run(report: Report, folder: str | None, *, full: bool) -> None:
    if shutil.which("etcd") is None or shutil.which("etcdctl") is None:
        report.note("etcd and etcdctl are not on the PATH: nothing to compare with")
        return
    with _etcd(folder) as port:
        _measure(report, port)
    if "writes_256B_64_in_flight_per_s" not in report.figures:
        writes.run(report, folder, full=full)
    for count in (1, 16, 64, 256):
        ours, theirs = (report.figures.get(f"{who}writes_256B_{count}_in_flight_per_s") for who in ("", "etcd_"))
        if ours and theirs:
            report.add(f"ratio_to_etcd_{count}_in_flight", [ours / theirs], "x")


def _measure(report: Report, port: int) -> None:
    value = os.urandom(VALUE_BYTES)

    def put() -> bytes:
        return message(b"k/%06d" % random.randrange(100_000), value)

    def read() -> bytes:
        return message(b"k/%06d" % random.randrange(100_000))

    work = [(f"writes_{VALUE_BYTES}B_{n}_in_flight", PUT, put, n) for n in (1, 16, 64, 256)]
    work += [(f"linearizable_reads_{VALUE_BYTES}B_{n}_in_flight", RANGE, read, n) for n in (1, 64)]
    for name, path, make, clients in work:
        measured = []
        for _ in range(report.runs):
            rate, times, errors = uvloop.run(load(port, clients, report.seconds, path, make))
            measured.append((rate, times))
            if errors:
                report.note(f"etcd_{name}: {errors} calls failed")
        report.rate(f"etcd_{name}", measured)


@contextmanager
def _etcd(folder: str | None) -> Iterator[int]:
    """Three etcd nodes with their data under `folder`; gives the client port of the leader."""
    root = tempfile.mkdtemp(prefix="etcd-bench-", dir=folder)
    ports = free_ports(2 * NODES)
    client, peer = ports[:NODES], ports[NODES:]
    urls = [f"http://127.0.0.1:{port}" for port in client]
    peers = ",".join(f"n{at}=http://127.0.0.1:{port}" for at, port in enumerate(peer))
    processes = []
    try:
        for at in range(NODES):
            own_peer = f"http://127.0.0.1:{peer[at]}"
            command = ["etcd", "--name", f"n{at}", "--data-dir", f"{root}/n{at}", "--initial-cluster", peers]
            command += ["--listen-client-urls", urls[at], "--advertise-client-urls", urls[at]]
            command += ["--listen-peer-urls", own_peer, "--initial-advertise-peer-urls", own_peer]
            with open(f"{root}/n{at}.log", "wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield client[_leader(urls)]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)
        shutil.rmtree(root, ignore_errors=True)


def _leader(urls: list[str]) -> int:
    """Index of the leader, once there is one."""
    deadline = time.monotonic() + READY_S
    command = ["etcdctl", "--endpoints", ",".join(urls), "endpoint", "status", "--write-out", "simple"]
    while time.monotonic() < deadline:
        asked = subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True)
        for line in asked.stdout.splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) > 4 and cells[4] == "true" and cells[0] in urls:
                return urls.index(cells[0])
        time.sleep(0.2)
    raise TimeoutError(f"no leader of etcd within {READY_S:.0f} s")
