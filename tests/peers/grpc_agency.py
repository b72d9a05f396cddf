"""A third-party agency: a grpcio server of AgencyService over mutual TLS, which records and answers by script.

Prints `READY <port>`. Each delivery becomes one JSON line of --record, synced before it is answered; the
same wire id with the same body gets the same receipt, also after a restart on the same file.

--script is a comma-separated list by order of arrival, afterwards OK:
    OK                        receipt (signed with --sign-key)
    SLOW[:ms]                 receipt after a pause (3 s)
    NORECEIPT                 OK without a receipt
    BADSIG                    receipt whose signature does not fit
    HANG                      recorded, never answered
    DROP                      recorded, then the call is reset
    EXIT                      recorded, then the process ends at once
    <gRPC code>[:retry ms]    such as UNAVAILABLE:500, INVALID_ARGUMENT, ALREADY_EXISTS
"""

import argparse
import base64
import concurrent.futures
import datetime
import hashlib
import json
import os
import re
import signal
import threading
import time

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

import waymark_protos

SLOW_MS = 3000
WORKERS = 32
RECEIPT_CONTEXT = b"waymark/receipt/v1\x00"
BEHAVIOURS = {"OK", "SLOW", "NORECEIPT", "BADSIG", "HANG", "DROP", "EXIT"}


def behaviour(text):
    match = re.fullmatch(r"([A-Z_]+)(?::(\d+))?", text.upper())
    if not match or not (match[1] in BEHAVIOURS or match[1] in code_pb2.Code.keys()):
        raise ValueError(f"unknown behaviour {text}")
    return match[1], int(match[2]) if match[2] else None


def signing_key(path):
    if not path:
        return None
    text = waymark_protos.read(path)
    if text.startswith(b"-----"):
        return load_pem_private_key(text, password=None)
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode().strip()))


def certificate_names(context):
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return [name.decode("utf-8", "replace") for name in names]


class Agency:
    def __init__(self, protos, options):
        self.protos = protos
        self.options = options
        self.key = signing_key(options.sign_key)
        self.script = [behaviour(text) for text in options.script.split(",") if text]
        self.lock = threading.Lock()
        self.arrivals = 0
        # Wire id to (body digest, reference, milliseconds): what was receipted before.
        self.taken = {}
        if os.path.exists(options.record):
            with open(options.record, encoding="utf-8") as file:
                for line in map(json.loads, file):
                    if line["taken"]:
                        body = hashlib.sha256(base64.b64decode(line["body_b64"])).digest()
                        known = (body, line["receiver_reference"], line["received_ms"])
                        self.taken.setdefault(line["wire_id"], known)
        self.file = open(options.record, "a", encoding="utf-8")

    def record(self, request, context):
        """Writes the arrival down; returns how to behave and the receipt's content."""
        with self.lock:
            place, self.arrivals = self.arrivals, self.arrivals + 1
            name, number = self.script[place] if place < len(self.script) else ("OK", None)
            digest = hashlib.sha256(request.body).digest()
            known = self.taken.get(request.wire_id)
            now = datetime.datetime.now(datetime.timezone.utc)
            if known is None:
                known = (digest, f"PY-{request.wire_id}", int(now.timestamp() * 1000))
            # A refused delivery is not taken; a lost answer is.
            taken = name not in code_pb2.Code.keys() or name == "OK"
            if taken:
                self.taken.setdefault(request.wire_id, known)
            dispatch = self.protos.Dispatch.FromString(request.body)
            line = {
                "peer": "grpcio-agency",
                "at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "delivery_id": request.delivery_id,
                "wire_id": request.wire_id,
                "attempt": request.attempt,
                "body_b64": base64.b64encode(request.body).decode(),
                "body_digest_matches": digest == request.body_sha256,
                "same_body_as_before": digest == known[0],
                "dispatch": waymark_protos.as_json(dispatch),
                "client_names": certificate_names(context),
                "traceparent": dict(context.invocation_metadata()).get("traceparent"),
                "answer": name,
                "taken": taken,
                "receiver_reference": known[1],
                "received_ms": known[2],
            }
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            if digest != known[0] or digest != request.body_sha256:
                return "INVALID_ARGUMENT", None, known
            return name, number, known

    def receipt(self, request, known, spoil):
        digest, reference, received_ms = known
        receipt = self.protos.AgencyReceipt(receiver_reference=reference)
        receipt.received_at.FromMilliseconds(received_ms)
        if self.key is not None:
            fields = [
                request.delivery_id.encode("ascii"),
                request.wire_id.encode("ascii"),
                digest,
                reference.encode("utf-8"),
                received_ms.to_bytes(8, "big"),
            ]
            signed = RECEIPT_CONTEXT + b"".join(len(f).to_bytes(4, "big") + f for f in fields)
            receipt.signature = self.key.sign(signed + b"spoilt" if spoil else signed)
            receipt.key_id = self.options.key_id
        return self.protos.DeliverResponse(receipt=receipt)

    def Deliver(self, request, context):
        name, number, known = self.record(request, context)
        if name == "EXIT":
            os._exit(1)
        if name == "HANG":
            time.sleep(context.time_remaining() or 3600)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "hung")
        if name == "DROP":
            context.cancel()
            return self.protos.DeliverResponse()
        if name == "SLOW":
            time.sleep((SLOW_MS if number is None else number) / 1000)
        if name == "NORECEIPT":
            return self.protos.DeliverResponse()
        if name in BEHAVIOURS:
            return self.receipt(request, known, spoil=name == "BADSIG")
        status = status_pb2.Status(code=code_pb2.Code.Value(name), message=f"by script: {name}")
        if number is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(number)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return context.abort_with_status(rpc_status.to_status(status))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", required=True)
    parser.add_argument("--script", default="")
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CA"), required=True)
    parser.add_argument("--sign-key", help="Ed25519 key: PKCS#8 PEM, or the seed as 64 hex digits")
    parser.add_argument("--key-id", default="receipts-1")
    options = parser.parse_args()
    protos = waymark_protos.Protos()
    cert, key, ca = map(waymark_protos.read, options.tls)
    credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(WORKERS))
    agency = Agency(protos, options)
    handler = protos.AgencyServiceServicer()
    handler.Deliver = agency.Deliver
    protos.add_AgencyServiceServicer_to_server(handler, server)
    port = server.add_secure_port(f"127.0.0.1:{options.port}", credentials)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(f"READY {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
