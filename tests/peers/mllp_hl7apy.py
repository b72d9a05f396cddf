"""MLLP receiver made of hl7apy's MLLPServer, which closes the connection after each message."""

import sys
import time

from hl7apy import SUPPORTED_LIBRARIES
from hl7apy.core import Message
from hl7apy.exceptions import HL7apyException
from hl7apy.mllp import AbstractErrorHandler, AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

import mllp_script


class Dropped(Exception):
    """Makes the server close the connection without an answer."""


def reply(script, text):
    body = text.encode("utf-8")
    behaviour = script.arrived(body)
    fields = text.split("\r")[0].split(text[3:4])
    fields += [""] * (12 - len(fields))
    code = behaviour.code
    try:
        parse_message(text, find_groups=False)
    except HL7apyException as error:
        print(f"hl7apy: {type(error).__name__}", file=sys.stderr)
        code = "AE"
    if behaviour.drop:
        raise Dropped
    if behaviour.hang:
        time.sleep(3600)
    time.sleep(behaviour.delay)
    version = fields[11].split("^")[0]
    ack = Message("ACK", version=version if version in SUPPORTED_LIBRARIES else "2.5")
    # MSH-3..6 swapped, MSH-10 of our own, MSH-11 as received.
    ack.msh.msh_3, ack.msh.msh_4 = fields[4], fields[5]
    ack.msh.msh_5, ack.msh.msh_6 = fields[2], fields[3]
    ack.msh.msh_9 = "ACK"
    ack.msh.msh_10 = f"HL7APY{script.arrivals}"
    ack.msh.msh_11 = fields[10]
    ack.msa.msa_1 = code
    ack.msa.msa_2 = "NOT-YOURS" if behaviour.wrong_id else fields[9]
    err = behaviour.err_segment(version)
    if err:
        ack.add_segment("ERR")
        ack.err.value = err
    return ack.to_mllp()


class Any(AbstractHandler):
    def __init__(self, message, script):
        super().__init__(message)
        self.script = script

    def reply(self):
        return reply(self.script, self.incoming_message)


class Unreadable(AbstractErrorHandler):
    """Called by the library for a message without a readable header, and for our own Dropped."""

    def __init__(self, exc, message, script):
        super().__init__(exc, message)
        self.script = script

    def reply(self):
        if isinstance(self.exc, Dropped):
            raise self.exc
        return reply(self.script, self.incoming_message)


class EveryType(dict):
    """A handler table that holds the same handler for every MSH-9."""

    def __init__(self, script):
        super().__init__(ERR=(Unreadable, script))
        self.script = script

    def __missing__(self, _message_type):
        return (Any, self.script)


def main():
    found = mllp_script.options("hl7apy")
    if found.tls:
        raise SystemExit("hl7apy has no TLS")
    script = mllp_script.Script(found)
    MLLPServer.daemon_threads = True
    server = MLLPServer("127.0.0.1", found.port, EveryType(script), timeout=60)
    mllp_script.ready(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
