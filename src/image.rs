//! Image names: what a pod says, read as the node will read it, and one spelling for each image.
//!
//! The most exposed parser of Lazaretto: whoever may create a pod chooses its input. It stands in two layers.
//!
//! 1. [`read`] takes a text for exactly what containerd takes it for. It follows github.com/distribution/reference v0.6.0,
//!    `ParseDockerRef`, on every input, oddities included; a differential test holds the two together.
//! 2. [`Reference::parse`] gives what was read its one canonical spelling, or refuses it. Policies, memory, look-ups and
//!    object names only ever see canonical names.
//!
//! The rule of the second layer: two spellings are folded into one only where every reader (containerd, the kubelet, CRI-O, and
//! our own registry client) takes both for the same image; what they take for different images, or might, is refused with
//! a sentence that names the spelling to use. A refusal costs an author one edit; a wrong fold is a way round a quarantine.
//! The obvious alternative, a lenient reader that repairs what it can, has failed in every admission controller that tried it:
//! the name that was judged and the name that was pulled drifted apart.

use std::{fmt, sync::Arc};

mod canonical;
mod digest;
mod read;
mod subject;

pub use canonical::HostError;
pub use digest::{Digest, DigestError};
pub use read::{Reading, ReadingError, names_registry, read};
pub use subject::{Subject, SubjectError};

pub(crate) use canonical::canonical_host;
pub(crate) use read::is_path_component;

/// Longest canonical name, `registry/repository`, in bytes. Readers disagree whether the 255 of the grammar count the host; so ours do.
pub const NAME_LIMIT: usize = 255;

/// The canonical name of an image: a registry, a repository, and either a tag or a digest.
///
/// Invariants: the registry is canonical (see [`Reference::parse`]) and holds no upper-case letter; the name has at most
/// [`NAME_LIMIT`] bytes; where a digest is given there is no tag, because a node that has both ignores the tag; parsing the
/// displayed form gives the same reference again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    name: Name,
    version: Version,
    /// The host is an address. Every policy asks.
    address: bool,
}

/// Registry and repository in one text, which is what patterns are matched with. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    /// `registry/repository`.
    text: Arc<str>,
    /// Where the slash is that parts them.
    slash: usize,
}

impl Name {
    fn registry(&self) -> &str {
        &self.text[..self.slash]
    }

    fn repository(&self) -> &str {
        &self.text[self.slash + 1..]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(Arc<str>),
    Digest(Digest),
}

/// Why a text is refused as the name of an image. The sentence says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The node could not read it either.
    #[error(transparent)]
    Unreadable(#[from] ReadingError),
    /// Its host has no canonical spelling.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its digest is none that everybody computes.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It is an algorithm and what may be the beginning of an image id.
    #[error("`{0}:` and digits name whatever image a node holds by that id: write registry/repository@sha256:DIGITS")]
    LocalId(&'static str),
    /// Registry and repository together exceed [`NAME_LIMIT`].
    #[error("the name is longer than {NAME_LIMIT} characters, registry included: shorten the repository path")]
    TooLong,
}

impl Reference {
    /// Reads a text as containerd does and gives it its canonical spelling.
    ///
    /// - The host is put in lower case, and the default port `:443` is left out.
    /// - A bare name gets `docker.io` and `library/`, a name without version gets `latest`, as [`read`] has it.
    /// - With tag and digest the digest decides and the tag is dropped.
    ///
    /// Refused though containerd reads it:
    ///
    /// - Docker Hub by any name but `docker.io` and the `index.docker.io` that the grammar itself folds. `DOCKER.IO/nginx` is to a
    ///   node *not* docker.io/library/nginx but the path `nginx` at a host of that name; `registry-1.docker.io/nginx` has no `library/`
    ///   either; so folding would judge another image than the one that is pulled, and leaving them alone would give one registry
    ///   many names.
    /// - Hosts that only their spelling makes a host: `LAZ/gate` and `registry:443/gate`, whose canonical spellings `laz/gate` and
    ///   `registry/gate` are Docker Hub's.
    /// - The loopback host with `:443` or in upper case: nodes speak HTTP on port 80 to `localhost` and TLS to the others.
    /// - IPv4 and IPv6 addresses in other than their canonical spelling, and what a resolver may take for one (`127.1`, `0x7f.1`).
    /// - Ports with leading zeros, 0, and above 65535.
    /// - A host with an underscore, which the grammar reads as no host at all.
    /// - Digests other than sha256 and sha512.
    /// - `sha256:0123…` alone, to the grammar a tag of docker.io/library/sha256. Before it pulls, a node looks for an image that it
    ///   holds by that id (containerd's `LocalResolve`; the beginning of an id will do) and starts it, whatever registry it came from.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let Reading { domain, path, tag, digest } = read(text)?;
        if let Some(algorithm) = id_algorithm(text) {
            return Err(ReferenceError::LocalId(algorithm));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest.parse()?),
            (None, tag) => Version::Tag(tag.unwrap_or(read::DEFAULT_TAG).into()),
        };
        if domain.is_empty() {
            return Err(canonical::fault(path.split('/').next().unwrap_or_default()).into());
        }
        let registry = canonical_host(domain)?;
        if registry.len() + 1 + path.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        let (slash, address) = (registry.len(), canonical::is_address(&registry));
        let text = [&*registry, "/", &*path].concat();
        Ok(Self { name: Name { text: text.into(), slash }, version, address })
    }

    /// The registry: `host` or `host:port`, canonical.
    pub fn registry(&self) -> &str {
        self.name.registry()
    }

    /// The repository: the path without the registry.
    pub fn repository(&self) -> &str {
        self.name.repository()
    }

    /// The tag; none where a digest is given.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, if it is named by one.
    pub const fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// `registry/repository`: what patterns and credentials are matched with.
    pub fn name(&self) -> &str {
        &self.name.text
    }

    /// The subject, if it is named by digest.
    pub fn subject(&self) -> Option<Subject> {
        self.digest().map(|digest| self.with_digest(digest.clone()))
    }

    /// The subject that this name stands for, once its digest is known.
    pub fn with_digest(&self, digest: Digest) -> Subject {
        Subject::new(self.name.clone(), digest)
    }

    /// The same repository and version at another host, which is canonical.
    #[must_use]
    pub fn at(&self, host: &str) -> Self {
        let (slash, address) = (host.len(), canonical::is_address(host));
        let text = [host, "/", self.repository()].concat();
        Self { name: Name { text: text.into(), slash }, version: self.version.clone(), address }
    }

    /// Whether the registry is named by an IP address, which says nothing about who runs it.
    pub const fn host_is_ip(&self) -> bool {
        self.address
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name.text)?;
        match &self.version {
            Version::Tag(tag) => write!(formatter, ":{tag}"),
            Version::Digest(digest) => write!(formatter, "@{digest}"),
        }
    }
}

impl From<&Subject> for Reference {
    fn from(subject: &Subject) -> Self {
        let (name, digest) = subject.parts();
        Self { name: name.clone(), version: Version::Digest(digest.clone()), address: canonical::is_address(name.registry()) }
    }
}

/// The algorithm, where a node may take a text for the id of an image that it holds: `sha256:` and no slash after it.
fn id_algorithm(text: &str) -> Option<&'static str> {
    let (name, _) = text.split_once(':').filter(|_| !text.contains('/'))?;
    // Those of go-digest, which the node's store of images looks ids up by.
    ["sha256", "sha384", "sha512"].into_iter().find(|algorithm| *algorithm == name)
}

/// A piece of an author's text for a sentence: at most 40 characters, with what a terminal or a log might act on escaped.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut clipped = String::new();
    for character in text.chars() {
        let piece = character.escape_debug();
        if clipped.len() + piece.len() > LONGEST {
            clipped.push_str("...");
            break;
        }
        // Look-alikes and letters that run from right to left would make the sentence lie.
        if character.is_ascii() { clipped.extend(piece) } else { clipped.push('?') }
    }
    clipped
}

#[cfg(test)]
mod tests;
