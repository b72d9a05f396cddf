"""Posts one callback signed by the third-party library standardwebhooks; prints the answer as JSON.

    webhook_send.py URL FILE --secret whsec_... [--id ID] [--at UNIX_SECONDS] [--ca PEM]
                    [--cert PEM --key PEM] [--spoil body|signature]

Exits 0 when the answer is 2xx.
"""

import argparse
import datetime
import http.client
import json
import pathlib
import ssl
import sys
import time
import urllib.parse
import uuid

import standardwebhooks


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("--secret", required=True)
    parser.add_argument("--id", default=f"msg_{uuid.uuid4().hex}")
    parser.add_argument("--at", type=int, default=int(time.time()))
    parser.add_argument("--ca")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--spoil", choices=["body", "signature"])
    options = parser.parse_args()

    body = pathlib.Path(options.file).read_text(encoding="utf-8")
    at = datetime.datetime.fromtimestamp(options.at, datetime.timezone.utc)
    signature = standardwebhooks.Webhook(options.secret).sign(options.id, at, body)
    if options.spoil == "body":
        body += " "
    elif options.spoil == "signature":
        # Another first character of the digest: still base64, still of the right length.
        signature = signature[:3] + ("A" if signature[3] != "A" else "B") + signature[4:]
    url = urllib.parse.urlsplit(options.url)
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert:
            context.load_cert_chain(options.cert, options.key)
        link = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=context)
    else:
        link = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    headers = {
        "content-type": "application/json",
        "webhook-id": options.id,
        "webhook-timestamp": str(options.at),
        "webhook-signature": signature,
    }
    path = url.path + (f"?{url.query}" if url.query else "")
    link.request("POST", path or "/", body.encode("utf-8"), headers)
    response = link.getresponse()
    text = response.read(1 << 20).decode("utf-8", "replace")
    print(json.dumps({"status": response.status, "body": text, "webhook_id": options.id}))
    return 0 if 200 <= response.status < 300 else 1


if __name__ == "__main__":
    sys.exit(main())
