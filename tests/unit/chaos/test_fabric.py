"""The proxies do to bytes what they say: cut one way, hold, refuse, delay, limit, reset, count, cut at a byte."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

from chaos.fabric import Fabric
from cluster.localfiles import LocalNode


@contextmanager
def echo_node(node_id):
    """A node whose three listeners echo."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]

    def talk(connection):
        with connection:
            try:
                while chunk := connection.recv(65536):
                    connection.sendall(chunk)
            except OSError:
                pass

    def accept(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    for server in servers:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
    http, raft, bulk = (f"127.0.0.1:{server.getsockname()[1]}" for server in servers)
    try:
        yield LocalNode(node_id, None, f"http://{http}", raft, bulk, "/nowhere")
    finally:
        for server in servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()


@pytest.fixture(scope="module")
def net():
    with echo_node("a") as a, echo_node("b") as b, Fabric() as fabric:
        peers = {node.id: fabric.peers_of(node.id, [a, b]) for node in (a, b)}
        fabric.start()
        yield fabric, peers


@pytest.fixture
def fabric(net):
    yield net[0]
    net[0].clear()


@pytest.fixture
def dial(net):
    opened = []

    def dial(listener="raft", src="a", dst="b"):
        peer = next(peer for peer in net[1][src] if peer.id == dst)
        host, port = getattr(peer, listener).removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), timeout=5)
        opened.append(sock)
        return sock

    yield dial
    for sock in opened:
        sock.close()


def exactly(sock, count):
    got = b""
    while len(got) < count:
        chunk = sock.recv(count - len(got))
        if not chunk:
            raise EOFError(f"{len(got)} of {count}")
        got += chunk
    return got


def ping(sock, payload=b"x" * 100):
    started = time.monotonic()
    sock.sendall(payload)
    assert exactly(sock, len(payload)) == payload
    return time.monotonic() - started


def silent(sock, for_s=0.2):
    sock.settimeout(for_s)
    try:
        return sock.recv(1) is None
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)


def test_bytes_pass_and_are_counted_by_direction(fabric, dial):
    before = fabric.sent("a", "b", "raft"), fabric.sent("b", "a", "raft"), fabric.sent("a", "b", "bulk")
    ping(dial(), b"y" * 300_000)
    after = fabric.sent("a", "b", "raft"), fabric.sent("b", "a", "raft"), fabric.sent("a", "b", "bulk")
    assert [b - a for a, b in zip(before, after, strict=True)] == [300_000, 300_000, 0]


@pytest.mark.parametrize("way", [("a", "b"), ("b", "a")])
def test_one_way_cut_holds_bytes_until_the_heal(fabric, dial, way):
    sock = dial()
    ping(sock)
    fabric.cut(*way, listeners=["raft"])
    count = fabric.sent("a", "b", "raft")
    sock.sendall(b"held")
    assert silent(sock)
    # The request arrives when only the answer's way is cut.
    assert fabric.sent("a", "b", "raft") - count == (4 if way == ("b", "a") else 0)
    fabric.heal()
    assert exactly(sock, 4) == b"held"


def test_a_cut_of_one_listener_leaves_the_others(fabric, dial):
    bulk, raft = dial("bulk"), dial("raft")
    fabric.isolate("b", listeners=["raft"])
    ping(bulk)
    raft.sendall(b"z")
    assert silent(raft)


def test_connects_are_refused_while_cut_and_work_again(fabric, dial):
    fabric.cut("b", "a")
    with pytest.raises(ConnectionRefusedError):
        dial()
    with pytest.raises(ConnectionRefusedError):
        dial(src="b", dst="a")
    fabric.heal()
    ping(dial())


def test_a_cut_port_is_kept(net, fabric):
    port = int(next(peer for peer in net[1]["a"] if peer.id == "b").raft.split(":")[1])
    for _ in range(3):
        fabric.cut("b", "a")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))
        fabric.heal()


def test_the_end_of_a_connection_is_held_too(fabric, dial):
    sock = dial()
    ping(sock)
    fabric.isolate("b")
    sock.shutdown(socket.SHUT_WR)
    assert silent(sock)
    fabric.heal()
    assert sock.recv(1) == b""


def test_held_bytes_are_bounded_so_that_the_sender_feels_the_cut(fabric, dial):
    sock = dial("bulk")
    fabric.cut("a", "b")
    sock.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 100 << 20:
            sent += sock.send(b"x" * 65536)
    assert sent < 32 << 20
    fabric.heal()
    sock.settimeout(5)
    assert len(exactly(sock, sent)) == sent


def test_delay_is_a_line_not_a_brake(fabric, dial):
    sock = dial()
    fabric.shape("a", "b", delay_ms=60)
    assert 0.055 < ping(sock) < 0.5
    started = time.monotonic()
    for _ in range(20):
        sock.sendall(b"k" * 1000)
        time.sleep(0.002)
    exactly(sock, 20_000)
    assert time.monotonic() - started < 0.6  # 20 delays one after the other would be 1.2 s


def test_rate(fabric, dial):
    sock = dial("bulk")
    fabric.shape("a", "b", rate=1_000_000)
    assert 0.2 < ping(sock, b"r" * 400_000) < 2


def test_reset(fabric, dial):
    sock = dial()
    ping(sock)
    fabric.reset("a", "b")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        for _ in range(100):
            sock.sendall(b"x")
            if sock.recv(1) == b"":
                raise AssertionError("an orderly end is not a reset")


def test_cut_at_an_exact_byte(fabric, dial):
    sock = dial("bulk")
    ping(sock)
    before = fabric.sent("a", "b", "bulk")
    trips = fabric.tripped("a", "b", "bulk")
    fabric.cut_after("a", "b", "bulk", 123_457)
    sock.sendall(b"q" * 200_000)
    deadline = time.monotonic() + 5
    while fabric.tripped("a", "b", "bulk") == trips and time.monotonic() < deadline:
        pass
    assert fabric.sent("a", "b", "bulk") - before == 123_457
    with pytest.raises(ConnectionRefusedError):
        dial("bulk")
    fabric.heal()
    exactly(sock, 200_000)


def test_a_target_that_is_not_there_resets_the_dialler(fabric, net):
    with Fabric() as lonely:
        gone = LocalNode("g", None, "http://127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", "/nowhere")
        me = LocalNode("m", None, "http://127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", "/nowhere")
        peer = lonely.peers_of("m", [gone, me])[0]
        lonely.start()
        host, port = peer.raft.split(":")
        sock = socket.create_connection((host, int(port)), timeout=5)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
