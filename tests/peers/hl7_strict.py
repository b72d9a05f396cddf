"""Strict validation of HL7 v2 messages by hl7apy, in the version that MSH-12 names.

    hl7_strict.py FILE...       each FILE holds one message; lines end with CR, LF or CRLF

Prints one JSON object and exits 0 when every message is valid, 1 when one is not, 2 when one could not
be read. Known gaps of the library: it accepts a wrong order of segments and stray segments; of version 2.3, whose
MSH-9 names no structure, it knows the structure of the first event of a family alone, so the others are
validated under that event, and of its acknowledgements nothing.
"""

import json
import pathlib
import sys

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1")
# Version 2.3: the event whose structure the others of its family share.
FIRST_EVENTS = {"REF": "REF^I12", "RRI": "RRI^I12", "SIU": "SIU^S12"}


def check(path):
    found = {"file": path, "valid": False, "version": None, "errors": []}
    text = pathlib.Path(path).read_bytes().decode("utf-8")
    text = text.strip("\x0b\x1c\r\n").replace("\r\n", "\r").replace("\n", "\r")
    fields = text.split("\r")[0].split(text[3:4])
    found["version"] = fields[11].split("^")[0] if len(fields) > 11 else None
    if found["version"] not in VERSIONS:
        found["errors"].append(f"MSH-12 is {found['version']}, not one of {', '.join(VERSIONS)}")
        return found
    if found["version"] == "2.3":
        kind = fields[8]
        text = text.replace(kind, FIRST_EVENTS.get(kind.split("^")[0], kind), 1)
    try:
        message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        message.validate()
        found["valid"] = True
        found["structure"] = message.name
    except HL7apyException as error:
        found["errors"].append(f"{type(error).__name__}: {error}")
    return found


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        results = [check(path) for path in sys.argv[1:]]
    except (OSError, UnicodeDecodeError) as error:
        print(json.dumps({"ok": False, "unreadable": str(error)}))
        return 2
    valid = all(result["valid"] for result in results)
    print(json.dumps({"ok": valid, "files": results}))
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
