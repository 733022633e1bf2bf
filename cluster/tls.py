"""Mutual TLS between members: both sides show a certificate of the cluster's own CA, and nothing older than TLS 1.3.

Names are not those of hosts, which move, but of nodes: consensus compares them with the id in the hello.
"""

from __future__ import annotations

import ssl


def contexts(*, cert: str, key: str, ca: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts from PEM files. Raises ssl.SSLError or OSError for files that can't be used."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    return server, client
