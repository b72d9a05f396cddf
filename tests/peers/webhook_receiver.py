"""A webhook receiver whose signatures are checked by the third-party library standardwebhooks.

Prints `READY <port>`. Each request becomes one JSON line of --record before it is answered. A request
that the library refuses is answered 401 whatever the script says, and takes no step of the script.

--script is a comma-separated list by order of arrival, afterwards 200:
    <status>[:seconds]   such as 200, 410, 503:2 (with Retry-After: 2), 429:1
    SLOW[:ms]            200 after a pause (3 s)
    HANG                 recorded, never answered
    DROP                 recorded, then the connection is reset
"""

import argparse
import base64
import datetime
import http.server
import json
import re
import socket
import ssl
import struct
import threading
import time

import standardwebhooks

SLOW_MS = 3000
BODY_BYTES_MAX = 16 * 1024 * 1024
SO_LINGER_RESET = struct.pack("ii", 1, 0)


def behaviour(text):
    match = re.fullmatch(r"(SLOW|HANG|DROP|[1-5]\d\d)(?::(\d+))?", text.upper())
    if not match:
        raise ValueError(f"unknown behaviour {text}")
    return match[1], int(match[2]) if match[2] else None


class Receiver:
    def __init__(self, options):
        self.webhooks = [standardwebhooks.Webhook(secret) for secret in options.secret]
        self.script = [behaviour(text) for text in options.script.split(",") if text]
        self.file = open(options.record, "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.arrivals = 0

    def verified(self, body, headers):
        """None when the library accepts the signature with one of our secrets, else its reason."""
        reason = "no secret"
        for webhook in self.webhooks:
            try:
                webhook.verify(body, headers, json_parse=False)
                return None
            except (standardwebhooks.WebhookVerificationError, ValueError) as error:
                reason = str(error)
        return reason

    def arrived(self, path, body, headers):
        with self.lock:
            reason = self.verified(body, headers)
            name, number = "200", None
            if reason is not None:
                name = "401"
            else:
                if self.arrivals < len(self.script):
                    name, number = self.script[self.arrivals]
                self.arrivals += 1
            now = datetime.datetime.now(datetime.timezone.utc)
            line = {
                "peer": "standardwebhooks",
                "at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "path": path,
                "webhook_id": headers.get("webhook-id"),
                "headers": headers,
                "body_b64": base64.b64encode(body).decode(),
                "verified": reason is None,
                "reason": reason,
                "answer": name,
            }
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            return name, number


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        if length > BODY_BYTES_MAX:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        headers = {key.lower(): value for key, value in self.headers.items()}
        name, number = self.server.receiver.arrived(self.path, body, headers)
        if name == "DROP":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
            self.close_connection = True
            self.connection.close()
            return
        if name == "HANG":
            time.sleep(3600)
        if name == "SLOW":
            time.sleep((SLOW_MS if number is None else number) / 1000)
            name, number = "200", None
        self.send_response(int(name))
        if number is not None:
            self.send_header("retry-after", str(number))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", required=True)
    parser.add_argument("--secret", action="append", required=True, help="whsec_...; repeatable")
    parser.add_argument("--script", default="")
    parser.add_argument("--tls", nargs="+", metavar="PEM", help="CERT KEY [CA of the clients]")
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.port), Handler)
    server.receiver = Receiver(options)
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls[0], options.tls[1])
        if len(options.tls) > 2:
            context.load_verify_locations(options.tls[2])
            context.verify_mode = ssl.CERT_REQUIRED
        # The handshake is left to the first read of the connection's own thread.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    print(f"READY {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
