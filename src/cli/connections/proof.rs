//! By what a connection proves itself, as the command line is told.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::clock::{Clock as _, SystemClock};
use crate::config;
use crate::graph::ClientCertificate;

/// One of these, or a client secret that is asked for.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(super) struct ProofArguments {
    /// A file with a client secret of the app registration. Or give the secret itself in
    /// `ENGAGEMENT_BRIDGE_CLIENT_SECRET`. [default: asked for]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CLIENT_SECRET_FILE", value_name = "PATH")]
    client_secret_file: Option<PathBuf>,

    /// A file with a certificate of the app registration and its private key: PEM, or PKCS#12, whose
    /// password is asked for or given in `ENGAGEMENT_BRIDGE_CERTIFICATE_PASSWORD`.
    #[arg(long, value_name = "PATH")]
    certificate_file: Option<PathBuf>,

    /// Where the bridge finds a token of an issuer that the app registration trusts, as Kubernetes
    /// mounts one for workload identity. It is read anew for each token, and not now.
    #[arg(long, value_name = "PATH")]
    federated_token_file: Option<String>,

    /// The identity of the machine that the bridge runs on, as Azure gives one.
    #[arg(long, value_name = "WHICH")]
    managed_identity: Option<Which>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// The machine's own.
    System,
    /// The one that the client id names.
    User,
}

impl ProofArguments {
    /// The member of a request to the API that says it.
    pub(super) fn read(self) -> anyhow::Result<Value> {
        if let Some(path) = self.certificate_file {
            let pem = certificate(&path)?;
            return Ok(json!({ "certificate": pem.expose_secret() }));
        }
        if let Some(file) = self.federated_token_file {
            return Ok(json!({ "federatedTokenFile": file }));
        }
        match self.managed_identity {
            Some(Which::System) => return Ok(json!({ "managedIdentity": "systemAssigned" })),
            Some(Which::User) => return Ok(json!({ "managedIdentity": "userAssigned" })),
            None => {}
        }
        let secret = client_secret(self.client_secret_file)?;
        Ok(json!({ "clientSecret": &*secret }))
    }
}

/// A certificate with its key as PEM, whichever form the file is in.
fn certificate(path: &Path) -> anyhow::Result<SecretString> {
    let unreadable = || format!("cannot read {}", path.display());
    let bytes = Zeroizing::new(std::fs::read(path).with_context(unreadable)?);
    let at_fault = || format!("{} cannot be used", path.display());
    if let Ok(text) = std::str::from_utf8(&bytes)
        && text.contains("-----BEGIN ")
    {
        return Ok(SecretString::from(text));
    }
    let password = password()?;
    let now = SystemClock.wall();
    let certificate = ClientCertificate::from_pkcs12(&bytes, &password, now);
    Ok(certificate.with_context(at_fault)?.pem().clone())
}

/// From the environment, or from whoever sits at the terminal; else there is none.
fn password() -> anyhow::Result<SecretString> {
    if let Some(password) = config::certificate_password() {
        return Ok(password);
    }
    if !io::stdin().is_terminal() {
        return Ok(SecretString::from(""));
    }
    let password = rpassword::prompt_password("Password of the certificate: ");
    Ok(password.context("cannot ask for it")?.into())
}

/// From the file, from the environment, or from whoever sits at the terminal.
fn client_secret(file: Option<PathBuf>) -> anyhow::Result<Zeroizing<String>> {
    if let Some(path) = file {
        let secret = config::read_secret(&path)?;
        return secret.with_context(|| format!("there is no file {}", path.display()));
    }
    if let Some(secret) = config::client_secret() {
        return Ok(secret);
    }
    if !io::stdin().is_terminal() {
        bail!(
            "give a proof: --client-secret-file or ENGAGEMENT_BRIDGE_CLIENT_SECRET, \
             --certificate-file, --federated-token-file or --managed-identity"
        );
    }
    let secret = rpassword::prompt_password("Client secret: ").context("cannot ask for it")?;
    Ok(Zeroizing::new(secret.trim().to_owned()))
}
