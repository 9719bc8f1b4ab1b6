// Verifies the Ed25519 signatures (`v1a`) of callbacks by Node's own cryptography.
//
// Standard input: a JSON array of {"key", "headers", "body"}. Standard output: a JSON array with true
// where one of the signatures is good, and false where none is.

import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

// What a SubjectPublicKeyInfo for Ed25519 begins with (RFC 8410).
const SPKI = Buffer.from("302a300506032b6570032100", "hex");

function judge({ key, headers, body }) {
  const raw = Buffer.from(key.replace(/^whpk_/, ""), "base64");
  const publicKey = createPublicKey({
    key: Buffer.concat([SPKI, raw]),
    format: "der",
    type: "spki",
  });
  const content = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  const entries = headers["webhook-signature"].split(" ");
  const codes = entries.filter((it) => it.startsWith("v1a,")).map((it) => it.slice(4));
  return codes.some((it) => verify(null, content, publicKey, Buffer.from(it, "base64")));
}

const cases = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map(judge)));
