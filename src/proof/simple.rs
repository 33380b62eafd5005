//! cosign's older signatures: "simple signing" payloads, the layers of the image that a `sha256-….sig` tag names
//! (sigstore/cosign, specs/SIGNATURE_SPEC.md).

use serde::Deserialize;

use super::{Attested, PublicKey, Refusal, Said, Signer, Step, key};
use crate::image::Digest;

/// The media type of a layer that is one.
pub const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The most bytes of a payload; cosign's have about 250.
pub const MAX_BYTES: usize = 64 << 10;

const KIND: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// Checks a payload with a key. The repository that it names is no check: images are copied with their signatures.
///
/// # Errors
/// The first step that fails.
pub fn with_key(payload: &[u8], signature: &str, signer: &PublicKey, digest: &Digest) -> Result<Attested<'static>, Refusal> {
    let signature = super::bundle::base64(signature).filter(|bytes| !bytes.is_empty());
    let Some(signature) = signature else { return Err(Refusal::at(Step::Read, "the signature is no base64")) };
    if payload.len() > MAX_BYTES {
        return Err(Refusal::at(Step::Read, format!("the payload has more than {} KiB", MAX_BYTES >> 10)));
    }
    if !signer.verifies(&key::Message::new(payload), &signature) {
        return Err(Refusal::at(Step::Signature, "the signature is not this key's over this payload: another key, or changed since"));
    }
    let read: Payload =
        super::json::read(payload).map_err(|why| Refusal::at(Step::Statement, format!("no simple signing payload: {why}")))?;
    if read.critical.kind != KIND {
        return Err(Refusal::at(
            Step::Statement,
            format!("the payload's type is `{}`, and not `{KIND}`", super::token(&read.critical.kind)),
        ));
    }
    if read.critical.image.docker_manifest_digest != digest.to_string() {
        let other = super::token(&read.critical.image.docker_manifest_digest);
        return Err(Refusal::at(Step::Digest, format!("it is about {other}, and not about {digest}")));
    }
    Ok(Attested { signer: Signer::Key(signer.fingerprint().clone()), said: Said::Signature })
}
