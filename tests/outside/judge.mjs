// Verifies callbacks by npm standardwebhooks or npm svix, whichever the first argument names.
//
// Standard input: a JSON array of {"secret", "headers", "body"}. Standard output: a JSON array with
// true where the library verifies, and the library's words where it does not.

import { readFileSync } from "node:fs";

const { Webhook, WebhookVerificationError } = await import(process.argv[2]);

function judge({ secret, headers, body }) {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch (refusal) {
    if (refusal instanceof WebhookVerificationError) return refusal.message;
    throw refusal;
  }
}

const cases = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map(judge)));
