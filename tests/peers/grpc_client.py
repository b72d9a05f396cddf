"""A third-party gRPC client: grpcio with classes generated from the repository's .proto files.

Each command prints JSON on standard output and exits 0 only when everything was as asked.

    submit FILE     submits one referral (a Referral, or a whole SubmitReferralRequest, as JSON)
    stream N FILE   submits N referrals through SubmitReferrals and checks one result per item
    watch           prints a line per event of WatchReferrals until --count events came
    receipt         downloads a receipt, checks its leaf hash and openings, writes the .tlog-proof
    call METHOD FILE  any other unary call, such as ReferralService/GetReferral
    health, reflect   grpc.health.v1 and grpc.reflection.v1

In the FILE of `stream`, `{n}` in a string becomes the item's number and `{nhs}` an NHS number of its
own from the test range. Without them each item still gets its own request_id and sender_reference.
"""

import argparse
import hashlib
import json
import sys
import time
import uuid

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import waymark_protos

COMMIT_CONTEXT = b"waymark/commit/v1\x00"
ERRORS_SHOWN = 5


def load(path):
    with (sys.stdin if path == "-" else open(path, encoding="utf-8")) as file:
        return json.load(file)


def show(value):
    print(json.dumps(value, ensure_ascii=False), flush=True)


class NhsNumbers:
    """Hands out valid NHS numbers of the range 999 that is kept for tests (modulus 11)."""

    def __init__(self):
        self.body = 999_000_000

    def next(self):
        while True:
            digits = [int(digit) for digit in str(self.body)]
            check = 11 - sum(d * w for d, w in zip(digits, range(10, 1, -1))) % 11
            self.body += 1
            if check != 10:
                return f"{self.body - 1}{check % 11}"


def filled(value, number, nhs):
    if isinstance(value, str):
        return value.replace("{n}", str(number)).replace("{nhs}", nhs)
    if isinstance(value, list):
        return [filled(item, number, nhs) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, number, nhs) for key, item in value.items()}
    return value


def submit(protos, channel, options):
    content = load(options.file)
    if "referral" not in content:
        content = {"referral": content}
    if options.request_id:
        content["request_id"] = options.request_id
    if "request_id" not in content and "requestId" not in content:
        content["request_id"] = str(uuid.uuid4())
    request = json_format.ParseDict(content, protos.SubmitReferralRequest())
    request.want_proof = request.want_proof or options.want_proof
    stub = protos.ReferralServiceStub(channel)
    response = stub.SubmitReferral(request, timeout=options.timeout)
    show({"ok": True, "request_id": request.request_id, **waymark_protos.as_json(response)})
    return 0


def stream(protos, channel, options):
    template = load(options.file)
    template = template.get("referral", template)
    numbers = NhsNumbers()

    def requests():
        for number in range(options.n):
            name = f"{options.prefix}-{number}"
            content = filled(template, number, numbers.next())
            if content.get("sender_reference", content.get("senderReference")) in (
                None,
                template.get("sender_reference", template.get("senderReference")),
            ):
                content.pop("senderReference", None)
                content["sender_reference"] = name
            referral = json_format.ParseDict(content, protos.Referral())
            yield protos.SubmitReferralsRequest(item_id=name, request_id=name, referral=referral)

    begun = time.monotonic()
    results, repeated, errors, foreign = {}, [], [], []
    stub = protos.ReferralServiceStub(channel)
    expected = {f"{options.prefix}-{number}" for number in range(options.n)}
    for response in stub.SubmitReferrals(requests(), timeout=options.timeout):
        if response.item_id not in expected:
            foreign.append(response.item_id)
        elif response.item_id in results:
            repeated.append(response.item_id)
        kind = response.WhichOneof("result")
        results[response.item_id] = response.receipt.referral_id if kind == "receipt" else None
        if kind != "receipt" and len(errors) < ERRORS_SHOWN:
            errors.append({"item_id": response.item_id, **waymark_protos.as_json(response.error)})
    if options.ids_out:
        with open(options.ids_out, "w", encoding="utf-8") as file:
            json.dump(results, file)
    accepted = [referral for referral in results.values() if referral]
    missing = sorted(expected - results.keys())
    ok = not (missing or repeated or foreign) and len(set(accepted)) == options.n
    show(
        {
            "ok": ok,
            "sent": options.n,
            "accepted": len(accepted),
            "distinct_referrals": len(set(accepted)),
            "refused": len(results) - len(accepted),
            "missing": missing[:ERRORS_SHOWN],
            "repeated": repeated[:ERRORS_SHOWN],
            "foreign": foreign[:ERRORS_SHOWN],
            "errors": errors,
            "seconds": round(time.monotonic() - begun, 3),
        }
    )
    return 0 if ok else 1


def watch(protos, channel, options):
    start = "WATCH_START_OLDEST" if options.start == "oldest" else "WATCH_START_NOW"
    request = protos.WatchReferralsRequest(
        cursor=options.cursor,
        start=protos.WatchStart.Value(start),
        referral_ids=options.referral_id,
    )
    call = protos.ReferralServiceStub(channel).WatchReferrals(request, timeout=options.timeout)
    call.initial_metadata()
    show({"ready": True})
    events, cursor = 0, options.cursor
    try:
        for response in call:
            cursor = response.cursor
            if response.HasField("event"):
                events += 1
                show({"cursor": cursor, "event": waymark_protos.as_json(response.event)})
            if events >= options.count:
                break
    except grpc.RpcError as error:
        show({**waymark_protos.error_json(error), "events": events, "cursor": cursor})
        return 1
    call.cancel()
    show({"ok": events >= options.count, "events": events, "cursor": cursor})
    return 0 if events >= options.count else 1


def receipt(protos, channel, options):
    request = protos.GetReceiptRequest(want_proof=True)
    if options.event_id:
        request.event_id = options.event_id
    elif options.request_id:
        request.request_id = options.request_id
    elif options.referral_id:
        request.key.referral_id = options.referral_id
    else:
        request.key.reference = options.reference
    stub = protos.AuditServiceStub(channel)
    deadline = time.monotonic() + options.timeout
    found = None
    # Each call waits up to 2 seconds for the log by itself.
    while found is None or (not found.tlog_proof and time.monotonic() < deadline):
        found = stub.GetReceipt(request, timeout=options.timeout).receipt
    if options.proof:
        with open(options.proof, "wb") as file:
            file.write(found.tlog_proof)
    if options.entry:
        with open(options.entry, "wb") as file:
            file.write(found.entry)
    leaf = hashlib.sha256(b"\x00" + found.entry).digest()
    opened = [
        hashlib.sha256(COMMIT_CONTEXT + bytes([o.tag]) + o.salt + o.content).digest()
        in found.entry
        for o in found.openings
        if o.content
    ]
    checks = {
        "has_proof": bool(found.tlog_proof),
        "leaf_hash_matches": leaf == found.leaf_hash,
        "openings_checked": len(opened),
        "openings_match": all(opened),
    }
    ok = checks["has_proof"] and checks["leaf_hash_matches"] and checks["openings_match"]
    show({"ok": ok, "checks": checks, "receipt": waymark_protos.as_json(found)})
    return 0 if ok else 1


def call(protos, channel, options):
    service, method = options.method.split("/")
    stub = getattr(protos, f"{service}Stub")(channel)
    request = json_format.ParseDict(load(options.file), getattr(protos, f"{method}Request")())
    response = getattr(stub, method)(request, timeout=options.timeout)
    show({"ok": True, **waymark_protos.as_json(response)})
    return 0


def health(_protos, channel, options):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=options.service)
    status = stub.Check(request, timeout=options.timeout).status
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    show({"ok": name == "SERVING", "status": name})
    return 0 if name == "SERVING" else 1


def reflect(_protos, channel, options):
    # The v1 protocol has the messages of v1alpha under another name.
    info = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    response = next(info(iter([request]), timeout=options.timeout))
    names = sorted(service.name for service in response.list_services_response.service)
    show({"ok": bool(names), "services": names})
    return 0 if names else 1


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    waymark_protos.add_client_options(parser)
    commands = parser.add_subparsers(required=True)

    def command(function, *positional):
        found = commands.add_parser(function.__name__)
        found.set_defaults(run=function)
        for name in positional:
            found.add_argument(name)
        return found

    found = command(submit, "file")
    found.add_argument("--request-id")
    found.add_argument("--want-proof", action="store_true")
    found = commands.add_parser("stream")
    found.set_defaults(run=stream)
    found.add_argument("n", type=int)
    found.add_argument("file")
    found.add_argument("--prefix", default=f"py-{uuid.uuid4().hex[:12]}")
    found.add_argument("--ids-out", help="file for a JSON object: item id to referral id")
    found = command(watch)
    found.add_argument("--count", type=int, default=1)
    found.add_argument("--cursor", default="")
    found.add_argument("--start", choices=["now", "oldest"], default="oldest")
    found.add_argument("--referral-id", action="append", default=[])
    found = command(receipt)
    which = found.add_mutually_exclusive_group(required=True)
    for name in ("event-id", "request-id", "referral-id", "reference"):
        which.add_argument(f"--{name}")
    found.add_argument("--proof", help="file for the .tlog-proof")
    found.add_argument("--entry", help="file for the log entry's bytes")
    command(call, "method", "file")
    found = command(health)
    found.add_argument("--service", default="")
    command(reflect)
    return parser.parse_args()


def main():
    options = arguments()
    protos = waymark_protos.Protos()
    with waymark_protos.channel(options) as channel:
        try:
            return options.run(protos, channel, options)
        except grpc.RpcError as error:
            show(waymark_protos.error_json(error))
            return 1


if __name__ == "__main__":
    sys.exit(main())
