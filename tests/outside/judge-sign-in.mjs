// Stands in for Entra by npm oauth2-mock-server, which knows nothing of the bridge: publishes its keys as a
// tenant does, and hands out tokens, some of which are forged.
//
// Standard input: {"tenant", "otherTenant", "audience", "app", "user"}, which are GUIDs; the server lasts
// until it is closed. Standard output: one line, {"root", "good": {name: token}, "forged": {name: token}}.

import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { SignJWT, UnsecuredJWT, exportSPKI, generateKeyPair, importJWK } from "jose";
import { OAuth2Issuer, OAuth2Service } from "oauth2-mock-server";

const lines = createInterface({ input: process.stdin });
const given = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);

const service = new OAuth2Service(new OAuth2Issuer());
const { issuer } = service;
// The library serves one issuer at the root; Entra has many, each below its tenant.
const prefix = `/${given.tenant}/v2.0`;
const server = createServer((request, response) => {
  if (!request.url.startsWith(`${prefix}/`)) return response.writeHead(404).end();
  request.url = request.url.slice(prefix.length);
  return service.requestHandler(request, response);
});
await new Promise((begun) => server.listen(0, "127.0.0.1", begun));
const root = `http://127.0.0.1:${server.address().port}`;
issuer.url = `${root}${prefix}`;

const key = await issuer.keys.generate("RS256", { kid: "of the tenant" });

const now = Math.floor(Date.now() / 1000);
const claims = {
  ver: "2.0", aud: given.audience, iss: issuer.url, tid: given.tenant, oid: given.user, azp: given.app,
  iat: now, nbf: now - 10, exp: now + 3600,
};
const ofUser = { ...claims, scp: "Operations.Read" };
const ofApp = { ...claims, roles: ["Operations.Read"] };

// As the library signs, by its own code.
const built = (changed, kid = key.kid) =>
  issuer.buildToken({ kid, scopesOrTransform: (_, payload) => Object.assign(payload, changed) });

// As the library hands out, by HTTP.
async function handedOut() {
  service.once("beforeTokenSigning", (token) => Object.assign(token.payload, ofApp));
  const body = new URLSearchParams({ grant_type: "client_credentials" });
  const answer = await fetch(`${issuer.url}/token`, { method: "POST", body });
  return (await answer.json()).access_token;
}

const good = { ofUser: await built(ofUser), ofApp: await built(ofApp), handedOut: await handedOut() };

// Not before: the library takes its keys in turn for what it hands out.
const foreign = await issuer.keys.generate("RS256", { kid: "of another issuer" });
await issuer.keys.add({ ...foreign, issuer: `${root}/${given.otherTenant}/v2.0` });
const publicKey = await exportSPKI(await importJWK({ kty: key.kty, n: key.n, e: key.e }, "RS256"));
const stranger = await generateKeyPair("RS256");
const forged = {
  algNone: new UnsecuredJWT(ofUser).encode(),
  hs256WithThePublicKey: await new SignJWT(ofUser)
    .setProtectedHeader({ typ: "JWT", alg: "HS256", kid: key.kid })
    .sign(new TextEncoder().encode(publicKey)),
  wrongKid: await new SignJWT(ofUser)
    .setProtectedHeader({ typ: "JWT", alg: "RS256", kid: "of nobody" })
    .sign(stranger.privateKey),
  kidOfTheTenantByAStranger: await new SignJWT(ofUser)
    .setProtectedHeader({ typ: "JWT", alg: "RS256", kid: key.kid })
    .sign(stranger.privateKey),
  keyOfAnotherIssuer: await built(ofUser, foreign.kid),
  issuer: await built({ ...ofUser, iss: `${root}/${given.otherTenant}/v2.0` }),
  audience: await built({ ...ofUser, aud: given.app }),
  tenant: await built({ ...ofUser, tid: given.otherTenant, iss: `${root}/${given.otherTenant}/v2.0` }),
  expired: await built({ ...ofUser, iat: now - 7200, nbf: now - 7200, exp: now - 120 }),
  notYetValid: await built({ ...ofUser, nbf: now + 600 }),
  appWithoutRoles: await built({ ...ofApp, roles: [] }),
};
console.log(JSON.stringify({ root, good, forged }));
lines.on("close", () => process.exit(0));
