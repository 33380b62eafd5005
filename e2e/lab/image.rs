//! Tiny images made of nothing: a layer with one file, a configuration, a manifest. They cannot run; they can be pulled.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest as hash};
use serde_json::json;

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `sha256:` and the hash of `bytes` in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hash(&SHA256, bytes).as_ref().iter().fold(String::from("sha256:"), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// An image in parts, ready to be pushed.
pub struct Image {
    /// The one layer, a tar archive.
    pub layer: Vec<u8>,
    /// The configuration.
    pub config: Vec<u8>,
    /// The manifest over both.
    pub manifest: Vec<u8>,
    /// Operating system and architecture.
    pub platform: (String, String),
}

impl Image {
    /// An image for linux/amd64. Two variants differ in every digest; the same variant is the same image.
    pub fn new(variant: &str) -> Self {
        Self::for_platform(variant, "linux", "amd64")
    }

    /// An image for a platform.
    pub fn for_platform(variant: &str, os: &str, architecture: &str) -> Self {
        let layer = tar("variant", variant.as_bytes());
        let config = json!({
            "os": os, "architecture": architecture, "config": { "Cmd": ["/variant"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": digest(&config), "size": config.len() },
            "layers": [{ "mediaType": LAYER, "digest": digest(&layer), "size": layer.len() }],
        });
        Self { layer, config, manifest: manifest.to_string().into_bytes(), platform: (os.into(), architecture.into()) }
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }
}

/// The index over images of several platforms.
pub fn index(images: &[Image]) -> Vec<u8> {
    let manifests: Vec<_> = images
        .iter()
        .map(|image| {
            let (os, architecture) = &image.platform;
            json!({
                "mediaType": MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
                "platform": { "os": os, "architecture": architecture },
            })
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into_bytes()
}

/// A tar archive (POSIX ustar) with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0"); // mode
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0"); // modified: always the same, so that digests are
    put(148, b"        "); // the checksum counts itself as spaces
    put(156, b"0"); // an ordinary file
    put(257, b"ustar\x0000");
    let checksum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}
