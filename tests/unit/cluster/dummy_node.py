"""A stand-in for a node process: takes the lock, answers /readyz and /v1/cluster, leaves on SIGTERM."""

import http.server
import json
import os
import signal
import sys
import tomllib

from cluster.datalock import DataLock

with open(sys.argv[sys.argv.index("--config") + 1], "rb") as file:
    config = tomllib.load(file)
if os.environ.get("DUMMY_FAILS") == config["id"]:
    sys.exit("this node does not want to start")
lock = DataLock.take(config["data"])
if os.environ.get("DUMMY_STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/readyz":
            checks = [{"name": "installing", "ok": os.environ.get("DUMMY_INSTALLS") != config["id"]}]
            self._answer(200 if checks[0]["ok"] else 503, checks)
        else:
            self._answer(200, {"leader": "n1", "term": 1, "env": os.environ.get("LASTGOOD_ENV"), "id": config["id"]})

    def _answer(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


host, port = config["http_listen"].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
