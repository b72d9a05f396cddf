"""Sends FHIR to a server as a BaRS sender would; what goes and what comes back is parsed by fhir.resources (R4B).

    fhir_send.py METHOD URL --ca PEM --cert PEM --key PEM [--file FILE] [--header NAME=VALUE ...] [--bars TARGET]

--bars adds the headers of $process-message for the target `system|value`; --header replaces or, with an empty value,
removes one. Prints one JSON line: status, headers, body, and whether the body is valid R4B.
"""

import argparse
import base64
import http.client
import json
import pathlib
import ssl
import urllib.parse
import uuid

from fhir.resources.R4B import get_fhir_model_class
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.organization import Organization
from pydantic import ValidationError


def encoded(resource):
    return base64.b64encode(resource.model_dump_json().encode()).decode()


def bars(target):
    system, value = target.rsplit("|", 1)
    organisation = Organization(
        identifier=[{"system": "https://fhir.nhs.uk/id/ods-organization-code", "value": "R1L"}],
        name="Southmere Hospital",
    )
    device = Device(deviceName=[{"name": "a sender", "type": "model-name"}])
    # Spaces and order differ from ours on purpose: the fields count.
    identifier = json.dumps({"value": value, "system": system}, indent=1)
    return {
        "nhsd-target-identifier": base64.b64encode(identifier.encode()).decode(),
        "nhsd-end-user-organisation": encoded(organisation),
        "nhsd-requesting-software": encoded(device),
        "x-request-id": str(uuid.uuid4()),
        "x-correlation-id": str(uuid.uuid4()),
        "use-context": "a4t2|validation|servicerequest-response|new",
        "accept": "application/fhir+json; version=1.4.0",
    }


def valid(text):
    if not text:
        return None
    try:
        get_fhir_model_class(json.loads(text)["resourceType"]).model_validate_json(text)
        return True
    except (ValidationError, ValueError, KeyError) as error:
        return str(error)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("url")
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name, required=True)
    parser.add_argument("--file")
    parser.add_argument("--bars")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()

    headers = bars(options.bars) if options.bars else {"accept": "application/fhir+json"}
    for header in options.header:
        name, value = header.split("=", 1)
        headers.pop(name, None)
        if value:
            headers[name] = value
    body = None
    if options.file:
        body = pathlib.Path(options.file).read_bytes()
        headers["content-type"] = "application/fhir+json"
    context = ssl.create_default_context(cafile=options.ca)
    context.load_cert_chain(options.cert, options.key)
    url = urllib.parse.urlsplit(options.url)
    connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=30)
    path = url.path + (f"?{url.query}" if url.query else "")
    connection.request(options.method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    said = {
        "status": answer.status,
        "headers": {name.lower(): value for name, value in answer.getheaders()},
        "sent": headers,
        "body": json.loads(text) if text else None,
        "valid": valid(text),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
