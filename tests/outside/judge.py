"""Verifies callbacks by PyPI standardwebhooks.

Standard input: a JSON array of {"secret", "headers", "body"}. Standard output: a JSON array with
true where the library verifies, and the library's words where it does not.
"""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def judge(case):
    try:
        Webhook(case["secret"]).verify(case["body"], case["headers"])
        return True
    except WebhookVerificationError as refusal:
        return str(refusal)


json.dump([judge(case) for case in json.load(sys.stdin)], sys.stdout)
