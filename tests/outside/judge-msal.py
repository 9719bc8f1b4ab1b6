"""Obtains tokens by PyPI msal, Microsoft's own library, from whatever stands in for Entra.

Standard input: {"authority", "roots", "clientId", "secret", "certificate", "key", "assertion"}, where
`roots` is a file with the certificate that the authority shows. Standard output: a JSON object with what
msal says of each grant: the kind of token, and whether a refresh token came with it.
"""

import json
import sys

import msal

GRAPH = "https://graph.microsoft.com"
FOR_APPS = [f"{GRAPH}/.default"]
FOR_USERS = [f"{GRAPH}/Community.Read.All"]


def app(given, credential):
    return msal.ConfidentialClientApplication(
        given["clientId"],
        client_credential=credential,
        authority=given["authority"],
        instance_discovery=False,
        validate_authority=False,
        verify=given["roots"],
        token_cache=msal.TokenCache(),
    )


def told(answer):
    if "access_token" not in answer:
        return {"error": answer.get("error"), "numbers": answer.get("error_codes")}
    return {"type": answer["token_type"], "refreshes": "refresh_token" in answer}


def main():
    given = json.load(sys.stdin)
    by_secret = app(given, given["secret"])
    by_certificate = app(
        given, {"private_key": given["key"], "public_certificate": given["certificate"]}
    )
    exchanged = by_secret.acquire_token_on_behalf_of(given["assertion"], FOR_USERS)
    by_assertion = by_certificate.acquire_token_on_behalf_of(given["assertion"], FOR_USERS)
    refreshed = by_secret.acquire_token_by_refresh_token(
        exchanged.get("refresh_token", "none"), FOR_USERS
    )
    print(
        json.dumps(
            {
                "secret": told(by_secret.acquire_token_for_client(FOR_APPS)),
                "certificate": told(by_certificate.acquire_token_for_client(FOR_APPS)),
                "on behalf of": told(exchanged),
                "on behalf of, by certificate": told(by_assertion),
                "refresh": told(refreshed),
                "wrong secret": told(app(given, "wrong").acquire_token_for_client(FOR_APPS)),
            }
        )
    )


main()
