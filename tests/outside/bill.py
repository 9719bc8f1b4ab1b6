"""What is wrong with a bill of materials, by CycloneDX's own schema."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema_rs

schemas = files("cyclonedx.schema") / "_res"
BILL, *REST = [f"{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82")]
read = {name: json.loads((schemas / name).read_text()) for name in (BILL, *REST)}
registry = jsonschema_rs.Registry([(f"http://cyclonedx.org/schema/{name}", read[name]) for name in REST])
judge = jsonschema_rs.validator_for(read[BILL], registry=registry, validate_formats=True)
faults = [str(it) for it in judge.iter_errors(json.loads(Path(sys.argv[1]).read_text()))]
if faults:
    sys.exit("\n".join(faults))
