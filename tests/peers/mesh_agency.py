"""An agency that uses NHS England's own MESH client (mesh-client).

    mesh_agency.py URL receive                        every message of the inbox, read and acknowledged
    mesh_agency.py URL send --workflow W --local-id L --file F [--chunk-bytes N]
    mesh_agency.py URL track --message M
    mesh_agency.py URL report --local-id L --workflow W --code C     as the sandbox's operator, into X26ABC1

--tls CERT KEY CA for mutual TLS. It is mailbox X26ABC2, and sends to X26ABC1. Prints one JSON line.
"""

import argparse
import base64
import json
import pathlib

import requests
from mesh_client import MeshClient

OURS, THEIRS = "X26ABC2", "X26ABC1"
HEADERS = ["from", "to", "workflowid", "localid", "filename", "subject", "content-type", "content-checksum"]


def received(client):
    messages = []
    for message_id in client.list_messages():
        message = client.retrieve_message(message_id)
        body = message.read()
        line = {name: message.mex_header(name) for name in HEADERS}
        line["message_id"] = message_id
        line["body_b64"] = base64.b64encode(body).decode()
        messages.append(line)
        message.acknowledge()
    return {"messages": messages}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("act", choices=["receive", "send", "track", "report"])
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CA"))
    parser.add_argument("--workflow")
    parser.add_argument("--local-id")
    parser.add_argument("--file", type=pathlib.Path)
    parser.add_argument("--chunk-bytes", type=int, default=75 * 1024 * 1024)
    parser.add_argument("--message")
    parser.add_argument("--code")
    options = parser.parse_args()
    cert, verify = None, None
    if options.tls:
        cert, verify = tuple(options.tls[:2]), options.tls[2]
    if options.act == "report":
        report = {
            "mailbox_id": THEIRS,
            "code": options.code,
            "description": "a report of the tests",
            "workflow_id": options.workflow,
            "local_id": options.local_id,
            "status": "undeliverable",
        }
        url = f"{options.url}/messageexchange/admin/report"
        answer = requests.post(url, json=report, cert=cert, verify=verify, timeout=30)
        print(json.dumps({"status": answer.status_code}))
        return
    client = MeshClient(
        options.url,
        OURS,
        "password",
        shared_key=b"TestKey",
        cert=cert,
        verify=verify,
        max_chunk_size=options.chunk_bytes,
    )
    with client:
        client.handshake()
        if options.act == "receive":
            said = received(client)
        elif options.act == "track":
            said = client.track_message(message_id=options.message)
        else:
            message_id = client.send_message(
                THEIRS,
                options.file.read_bytes(),
                workflow_id=options.workflow,
                local_id=options.local_id,
                content_type="application/json",
            )
            said = {"message_id": message_id}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
