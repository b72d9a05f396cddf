"""Sends HL7 v2 messages by MLLP over mutual TLS with python-hl7, all on one connection; prints the answers as JSON.

    mllp_python_send.py PORT --tls CERT KEY CA FILE...

Each FILE holds one message; lines end with CR, LF or CRLF. Exits 0 when each got an answer.
"""

import argparse
import asyncio
import json
import pathlib
import ssl
import sys

import hl7
import hl7.mllp

ANSWER_SECONDS = 20.0


async def talk(options):
    context = ssl.create_default_context(cafile=options.tls[2])
    context.load_cert_chain(options.tls[0], options.tls[1])
    reader, writer = await hl7.mllp.open_hl7_connection(
        "127.0.0.1", options.port, ssl=context, encoding="utf-8"
    )
    answers = []
    for path in options.files:
        text = pathlib.Path(path).read_bytes().decode("utf-8")
        message = hl7.parse(text.replace("\r\n", "\r").replace("\n", "\r"))
        writer.writemessage(message)
        await writer.drain()
        answer = await asyncio.wait_for(reader.readmessage(), ANSWER_SECONDS)
        answers.append(str(answer))
    writer.close()
    return answers


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tls", nargs=3, required=True, metavar=("CERT", "KEY", "CA"))
    options = parser.parse_args()
    try:
        answers = asyncio.run(talk(options))
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    print(json.dumps({"answers": answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
