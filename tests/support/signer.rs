//! Signs what the fixtures do not: statements about digests that a test makes up, with a key of the fixtures.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use lazaretto::image::Digest;
use serde_json::{Value, json};

pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
pub const CYCLONEDX: &str = "https://cyclonedx.org/bom";
pub const VULN: &str = "https://cosign.sigstore.dev/attestation/vuln/v1";

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A Sigstore bundle: a statement about a digest, signed with the key `ecdsa-p256`.
pub fn bundle(digest: &Digest, predicate_type: &str, predicate: &Value) -> Vec<u8> {
    let pem = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/proof/keys/ecdsa-p256.pem")).unwrap();
    let der = BASE64_STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "subject": [{ "digest": { "sha256": digest.hex() } }],
        "predicateType": predicate_type, "predicate": predicate,
    });
    let payload = statement.to_string();
    let message = format!("DSSEv1 {} {PAYLOAD_TYPE} {} {payload}", PAYLOAD_TYPE.len(), payload.len());
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let envelope = json!({
        "payload": BASE64_STANDARD.encode(&payload), "payloadType": PAYLOAD_TYPE,
        "signatures": [{ "sig": BASE64_STANDARD.encode(signature.as_ref()) }],
    });
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": { "publicKey": { "hint": "" } },
        "dsseEnvelope": envelope,
    });
    bundle.to_string().into_bytes()
}

/// A bundle that is a signature and no more.
pub fn signature(digest: &Digest) -> Vec<u8> {
    bundle(digest, SIGNED, &json!({}))
}
