"""Validates FHIR JSON against R4B (its resources here are R4's) with the third-party library fhir.resources.

    fhir_validate.py FILE...

A FILE is one resource; the last line printed is a JSON object of each file's faults, empty where it is valid.
"""

import json
import pathlib
import sys

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError


def faults(text):
    document = json.loads(text)
    try:
        get_fhir_model_class(document["resourceType"]).model_validate_json(text)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return []


def main():
    found = {}
    for name in sys.argv[1:]:
        found[name] = faults(pathlib.Path(name).read_text(encoding="utf-8"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
