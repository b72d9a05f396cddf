"""NHS England's own MESH sandbox (mesh-sandbox) with full authorization, served by uvicorn.

Prints `READY <port>`. Mailboxes X26ABC1 to X26ABC3, password `password`, key `TestKey`; workflow TEST_WORKFLOW. Each
request becomes one JSON line of --record before it is answered. --tls CERT KEY CA asks for a client certificate.
--lose N: the first N messages that it takes are answered 500, so that their sender does not know that they were taken.
"""

import argparse
import json
import os
import socket
import ssl

os.environ.update(AUTH_MODE="full", SHARED_KEY="TestKey", STORE_MODE="memory")

import uvicorn  # noqa: E402
from mesh_sandbox.api import app  # noqa: E402


class AnswerLost(Exception):
    """Said to uvicorn, which answers 500 where nothing was answered yet."""


def recorded(options):
    file = open(options.record, "a", encoding="utf-8")
    left = [options.lose]

    async def serve(scope, receive, send):
        if scope["type"] != "http":
            return await app(scope, receive, send)
        lost = False

        async def sends(message):
            nonlocal lost
            if message["type"] == "http.response.start":
                line = {"method": scope["method"], "path": scope["path"], "status": message["status"]}
                file.write(json.dumps(line) + "\n")
                file.flush()
                is_post = scope["method"] == "POST" and scope["path"].endswith("/outbox")
                if is_post and message["status"] == 202 and left[0] > 0:
                    left[0] -= 1
                    lost = True
            if not lost:
                await send(message)

        await app(scope, receive, sends)
        if lost:
            raise AnswerLost
        return None

    return serve


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        print(f"READY {sockets[0].getsockname()[1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", required=True)
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CA"))
    parser.add_argument("--lose", type=int, default=0)
    options = parser.parse_args()
    tls = {}
    if options.tls:
        cert, key, authority = options.tls
        tls = {
            "ssl_certfile": cert,
            "ssl_keyfile": key,
            "ssl_ca_certs": authority,
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
        }
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(recorded(options), log_level="error", lifespan="off", **tls)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
