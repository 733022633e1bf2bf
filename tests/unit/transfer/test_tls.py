"""Transfers under mutual TLS: a peer without a certificate of ours gets nothing."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time

import pytest

from cluster.transfer.bulk_client import BulkClient, Link, PeerAddress, Stopped, TransferSettings
from cluster.transfer.bulk_server import BulkServer
from cluster.transfer.limiter import Bucket
from cluster.transfer.registry import Registry

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@pytest.fixture
def certificate(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=node"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return str(cert), str(key)


def contexts(certificate):
    cert, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(cert)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cert)
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(cert)
    client.load_cert_chain(cert, key)
    return server, client, anonymous


def client_of(node, held, world, server, tls):
    return BulkClient(
        want=world.base_of(held),
        transfer="t",
        purpose="install",
        peers=lambda: [PeerAddress("n1", *server.address)],
        landing=node.landing,
        local=node,
        registry=node.registry,
        link=Link("c", "me", Bucket(0, time.monotonic), time.monotonic, TransferSettings(), tls),
    )


def test_pages_come_under_mutual_tls_and_only_so(world, certificate):
    server_tls, client_tls, anonymous_tls = contexts(certificate)
    source = world.source().fill(4)
    held = source.publish(meta=b"m" * 300_000)
    registry = Registry(now=time.monotonic, wall_ms=lambda: 0, emit=lambda kind, facts: None)
    server = BulkServer(
        ("127.0.0.1", 0), source, cluster_id="c", node="n1", registry=registry, now=time.monotonic, tls=server_tls
    )
    server.start()
    stranger = world.node("stranger").open()
    client = client_of(stranger, held, world, server, anonymous_tls)

    def run_in_vain():
        with pytest.raises(Stopped):
            client.run()

    thread = threading.Thread(target=run_in_vain)
    thread.start()
    node = world.node().open()
    assert node.image(client_of(node, held, world, server, client_tls).run()) == world.image_of(source)
    client.close()
    thread.join(10)
    assert stranger.registry.rows()[0].done_bytes == 0 and client.manifest is None
    server.stop()
