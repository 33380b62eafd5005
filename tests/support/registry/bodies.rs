//! Bytes and answers that the registry is made of.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use lazaretto::image::Digest;
use serde_json::json;

use super::{OCI_INDEX, OCI_MANIFEST};

/// The bytes of an image manifest; another seed, another image.
pub fn image(seed: &str) -> Bytes {
    let config = Digest::of(seed.as_bytes()).to_string();
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": seed.len()});
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}).to_string().into()
}

/// The bytes of an index of images and their platforms.
pub fn index(entries: &[(&Digest, &str, &str)]) -> Bytes {
    let entry = |(digest, os, architecture): &(&Digest, &str, &str)| json!({"mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": 1, "platform": {"os": os, "architecture": architecture}});
    let entries: Vec<_> = entries.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string().into()
}

/// The envelope of a registry's errors.
pub fn errors(code: &str, message: &str) -> String {
    json!({"errors": [{"code": code, "message": message, "detail": {}}]}).to_string()
}

pub fn error(status: u16, code: &str, message: &str) -> Response {
    respond(status, &[("content-type", "application/json".to_owned())], errors(code, message))
}

pub fn respond(status: u16, headers: &[(&'static str, String)], body: impl Into<Body>) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), body.into()).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in headers {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

/// An authority of its own and a leaf for loopback.
pub fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (pem, Arc::new(config))
}
