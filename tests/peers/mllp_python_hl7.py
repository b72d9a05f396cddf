"""MLLP receiver made of python-hl7's asyncio server, plain or with mutual TLS.

With `--encoding ascii`, the library's own default, a message holding a non-ASCII name is recorded
and never answered.
"""

import asyncio
import ssl
import sys

import hl7
from hl7.mllp import start_hl7_server

import mllp_script

BLOCK_BYTES_MAX = 16 * 1024 * 1024


def tls_context(tls):
    if not tls:
        return None
    cert, key, ca = tls
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve_connection(script, reader, writer):
    try:
        while not reader.at_eof():
            # readblock and parse are what the library's readmessage does; the bytes are recorded between.
            block = await reader.readblock()
            behaviour = script.arrived(block)
            message = hl7.parse(block.decode(reader.encoding, reader.encoding_errors))
            if behaviour.drop:
                writer.transport.abort()
                return
            if behaviour.hang:
                continue
            if behaviour.delay:
                await asyncio.sleep(behaviour.delay)
            ack = message.create_ack(behaviour.code)
            if behaviour.wrong_id:
                ack.segment("MSA").assign_field("NOT-YOURS", 2)
            err = behaviour.err_segment(str(message.segment("MSH")(12)))
            if err:
                writer.writeblock((str(ack) + err + "\r").encode(writer.encoding))
            else:
                writer.writemessage(ack)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
    except UnicodeDecodeError as error:
        # What the library does with its default encoding: the task dies, the sender waits.
        print(f"python-hl7: {error.reason}", file=sys.stderr)
        await reader.read()


async def main():
    found = mllp_script.options("python-hl7")
    script = mllp_script.Script(found)

    async def connected(reader, writer):
        await serve_connection(script, reader, writer)

    server = await start_hl7_server(
        connected,
        "127.0.0.1",
        found.port,
        limit=BLOCK_BYTES_MAX,
        encoding=found.encoding,
        ssl=tls_context(found.tls),
    )
    mllp_script.ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
