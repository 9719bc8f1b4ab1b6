"""The documents of a YAML from standard input, as one list of JSON."""

import json
import sys

import yaml

documents = yaml.safe_load_all(sys.stdin)
json.dump([it for it in documents if it is not None], sys.stdout, default=str)
