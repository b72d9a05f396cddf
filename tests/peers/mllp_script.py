"""What the Python MLLP receivers share: command line, record file and the script of answers.

The receiving, parsing and acknowledging is left to the third-party library under test.
"""

import argparse
import base64
import datetime
import json
import re
import threading

SLOW_SECONDS = 3.0
ERRORS = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    205: "Duplicate key identifier",
    206: "Application record locked",
    207: "Application internal error",
}


def options(peer):
    parser = argparse.ArgumentParser(description=f"MLLP receiver: {peer}")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", required=True)
    parser.add_argument("--answers", help="JSON file: control id to behaviour")
    parser.add_argument("--script", default="", help="behaviours by order of arrival")
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CA"))
    parser.add_argument("--encoding", default="utf-8")
    found = parser.parse_args()
    found.script = [part for part in found.script.split(",") if part]
    if found.answers:
        with open(found.answers, encoding="utf-8") as file:
            found.answers = json.load(file)
    else:
        found.answers = {}
    for text in [*found.script, *found.answers.values()]:
        Behaviour(text)
    found.peer = peer
    return found


class Behaviour:
    """One of AA, AE[:n], AR[:n], CA, CE[:n], CR[:n], DROP, HANG, SLOW[:ms], WRONGID."""

    def __init__(self, text):
        match = re.fullmatch(
            r"(AA|AE|AR|CA|CE|CR|DROP|HANG|SLOW|WRONGID):?(\d+)?", text.upper()
        )
        if not match:
            raise ValueError(f"unknown behaviour {text}")
        name, number = match[1], int(match[2]) if match[2] else None
        self.code, self.error, self.delay = "AA", None, 0.0
        self.drop = name == "DROP"
        self.hang = name == "HANG"
        self.wrong_id = name == "WRONGID"
        if name == "SLOW":
            self.delay = SLOW_SECONDS if number is None else number / 1000
        elif len(name) == 2:
            self.code, self.error = name, number

    def err_segment(self, version):
        """ERR as the version has it: ERR-3 from 2.5 on, ERR-1 before; None without a number."""
        if self.error is None:
            return None
        text = ERRORS.get(self.error, "Other")
        if version[:3] >= "2.5":
            return f"ERR|||{self.error}^{text}^HL70357|E"
        return f"ERR|^^^{self.error}&{text}&HL70357"


def control_id(body):
    header = body.split(b"\r")[0].decode("latin-1")
    fields = header.split(header[3:4] or "|")
    return fields[9] if len(fields) > 9 else ""


class Script:
    """Records arrivals and says how to behave at each; safe to share between threads."""

    def __init__(self, found):
        self.found = found
        self.file = open(found.record, "a", encoding="utf-8")
        self.arrivals = 0
        self.lock = threading.Lock()

    def arrived(self, body):
        with self.lock:
            ident = control_id(body)
            now = datetime.datetime.now(datetime.timezone.utc)
            line = {
                "peer": self.found.peer,
                "bytes_b64": base64.b64encode(body).decode(),
                "control_id": ident,
                "at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            }
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            place, self.arrivals = self.arrivals, self.arrivals + 1
            if place < len(self.found.script):
                return Behaviour(self.found.script[place])
            return Behaviour(self.found.answers.get(ident, "AA"))


def ready(port):
    print(f"READY {port}", flush=True)
