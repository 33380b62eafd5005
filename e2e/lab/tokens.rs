//! A token server that grants per path, as registry products have it: `library/` to everybody, `coolteam/` to the team.
//!
//! Form: the distribution project's "token authentication specification". What it does not grant is left out of the token and is no error, as the
//! specification has it: the registry then refuses.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{Router, extract::RawQuery, http::HeaderMap, routing::get};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::control_plane::{Authority, ServerCertificate};
use super::process::background;

/// The team's user.
pub const TEAM: &str = "coolteam";
/// Its password.
pub const PASSWORD: &str = "opensesame";
/// Who issues the tokens, and for what service, as the registry is configured.
pub const ISSUER: &str = "lab";

/// A token server at `127.0.0.1:<port>`; it ends with the process.
pub struct TokenServer {
    address: SocketAddr,
    /// What the registry has to trust, PEM.
    pub authority: String,
}

impl TokenServer {
    /// Starts it.
    pub async fn start() -> Self {
        let authority = Authority::new("tokens");
        let pem = authority.pem();
        let certificate = Arc::new(authority.server(&["tokens.lab".to_owned()]));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        background().spawn(async move {
            let answer = move |headers: HeaderMap, RawQuery(query): RawQuery| {
                let token = token(&certificate, is_team(&headers), query.as_deref().unwrap_or_default());
                let body = json!({ "token": token, "expires_in": 300 }).to_string();
                async move { ([("content-type", "application/json")], body) }
            };
            let router = Router::new().route("/token", get(answer));
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
        Self { address, authority: pem }
    }

    /// Where tokens are to be had.
    pub fn realm(&self) -> String {
        // By the name that the registry has: credentials go to no other host.
        format!("http://localhost:{}/token", self.address.port())
    }
}

fn is_team(headers: &HeaderMap) -> bool {
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    shown == format!("Basic {}", BASE64_STANDARD.encode(format!("{TEAM}:{PASSWORD}")))
}

/// A token for what is asked and granted.
fn token(certificate: &ServerCertificate, team: bool, query: &str) -> String {
    let asked = url::form_urlencoded::parse(query.as_bytes());
    let (mut service, mut access) = (String::new(), Vec::new());
    for (name, value) in asked {
        match &*name {
            "service" => service = value.into_owned(),
            "scope" => access.extend(value.split(' ').filter_map(|scope| grant(scope, team))),
            _ => {}
        }
    }
    let leaf = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
    let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [BASE64_STANDARD.encode(&leaf)] });
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({
        "iss": ISSUER, "aud": service, "sub": "", "iat": now, "nbf": now - 60, "exp": now + 300, "jti": now.to_string(), "access": access,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let key = PrivatePkcs8KeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// What is granted of one scope, `repository:path:action,…`.
fn grant(scope: &str, team: bool) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (path, _) = rest.rsplit_once(':')?;
    let granted = path.starts_with("library/") || team && path.starts_with("coolteam/");
    granted.then(|| json!({ "type": kind, "name": path, "actions": ["pull"] }))
}
