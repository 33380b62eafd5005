//! An image name as containerd reads it: `ParseDockerRef` of github.com/distribution/reference v0.6.0, without its regular expressions.
//!
//! ```text
//! domain component  [a-zA-Z0-9] | [a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]
//! domain            component(\.component)* | \[[a-fA-F0-9:]+\]   then (:[0-9]+)?
//! path component    [a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*
//! name              (domain/)?component(/component)*
//! tag               [\w][\w.-]{0,127}
//! digest            what go-digest validates: sha256, sha384, sha512 with exactly 64, 96, 128 of [a-f0-9]
//! reference         ^name(:tag)?(@digest)?$
//! ```
//!
//! The expression needs no backtracking, since each of its parts lacks the character that ends it: `@` stands only before the
//! digest, `/` never in a tag or a component, `:` only in a domain and before the tag. So cutting at the first `@`, the last `/`
//! and the first `:` after it finds the one way in which the whole can match.

use std::borrow::Cow;

use super::{
    HostError, canonical, clip,
    digest::{DigestError, is_lower_hex},
};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const LOCALHOST: &str = "localhost";
const OFFICIAL: &str = "library/";
pub(super) const DEFAULT_TAG: &str = "latest";
/// Longest path in bytes; the domain does not count.
const PATH_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// What a node takes a text for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The registry as it is written. Empty where the grammar finds none: `under_score.example/app` is to it a path of two parts.
    pub domain: &'a str,
    /// The repository, with `library/` where that is implied. At most 255 bytes.
    pub path: Cow<'a, str>,
    /// The tag; `latest` where neither tag nor digest is written. Beside a digest it means nothing and is kept only for show.
    pub tag: Option<&'a str>,
    /// The digest. It decides over the tag.
    pub digest: Option<&'a str>,
}

/// Why a node cannot read a text. Of several faults one is named; the sentence says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// Nothing is there.
    #[error("the image is empty: write a name such as registry.example/team/app:1.0")]
    Empty,
    /// Exactly 64 hex digits, which runtimes take for an image id.
    #[error("64 hex digits are the id of an image, not its name: write registry/repository@sha256:DIGITS")]
    Identifier,
    /// A space, a tab, a line end.
    #[error("there is white space in the image name: leave it out")]
    WhiteSpace,
    /// A control character.
    #[error("there is a control character in the image name: leave it out")]
    Control,
    /// A percent sign: nothing is decoded in a name.
    #[error("there is a `%` in the image name, where nothing is decoded: write the characters themselves")]
    Percent,
    /// A URL.
    #[error("an image name has no scheme: leave out `{0}://`")]
    Scheme(String),
    /// User information as in URLs. It is not echoed: there may be a password in it.
    #[error("an image name has no user or password: leave out all before the `@`, and use imagePullSecrets")]
    UserInformation,
    /// A character that stands nowhere in a name.
    #[error("`{0}` cannot stand in an image name: use a-z, 0-9 and . _ - between them")]
    Character(String),
    /// Nothing between two slashes, or before the first, or after the last.
    #[error("there is a slash too many in the image name, at its start, at its end or doubled: leave it out")]
    EmptySegment,
    /// Two dots together.
    #[error("there is `..` in the image name: write the whole path out")]
    DotDot,
    /// An upper-case letter in the path.
    #[error("the repository `{0}` has upper-case letters: write it in lower case")]
    UpperCase(String),
    /// A component of the path that the grammar does not know.
    #[error("`{0}` is no part of a repository path: use a-z and 0-9, with single . or _, double _ or any - between them")]
    Component(String),
    /// The path exceeds 255 bytes.
    #[error("the repository path is longer than 255 characters: shorten it")]
    TooLong,
    /// What stands after the colon is no tag.
    #[error("`{0}` is no tag: use at most 128 of a-z, A-Z, 0-9, _ . - and do not start with . or -")]
    Tag(String),
    /// What stands after `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The host is not written as a host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Reads a text exactly as containerd does when a pod names its image.
pub fn read(text: &str) -> Result<Reading<'_>, ReadingError> {
    // The exact reading decides; only a text that it refuses is looked through for a cause that helps its author more.
    read_exactly(text).map_err(|error| remarkable(text).unwrap_or(error))
}

fn read_exactly(text: &str) -> Result<Reading<'_>, ReadingError> {
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err(ReadingError::Identifier);
    }
    let (domain, remainder) = split_domain(text);
    let (name, digest) = match remainder.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (remainder, None),
    };
    // Only what follows the last slash can hold a tag. Where a slash comes later than the colon, the part is no component.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name[last..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    let official = domain == DEFAULT_DOMAIN && !remainder.contains('/');
    let path = if official { Cow::Owned([OFFICIAL, name].concat()) } else { Cow::Borrowed(name) };

    if let Some(part) = path.split('/').find(|part| !is_path_component(part)) {
        return Err(match part {
            "" => ReadingError::EmptySegment,
            _ if part.bytes().any(|byte| byte.is_ascii_uppercase()) => ReadingError::UpperCase(clip(&path)),
            _ => ReadingError::Component(clip(part)),
        });
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(ReadingError::Tag(clip(tag)));
    }
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    // The domain is optional in the expression: what is not one may still be the first part of the path.
    let (domain, path) = if is_domain(domain) {
        (domain, path)
    } else if is_path_component(domain) {
        ("", [domain, "/", &path].concat().into())
    } else {
        return Err(canonical::fault(domain).into());
    };
    if path.len() > PATH_LIMIT {
        return Err(ReadingError::TooLong);
    }
    let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG));
    Ok(Reading { domain, path, tag, digest })
}

/// `splitDockerDomain`, but for the `library/` that it puts before a lone name of Docker Hub.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        // Go compares with `strings.ToLower`, which knows other scripts; no expression admits their letters in either place.
        Some((first, rest)) if first == LOCALHOST || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

/// Whether a text names its registry, and does not leave it to whoever reads it.
#[must_use]
pub fn names_registry(text: &str) -> bool {
    // What is left of the text is part of it, where nothing but the first part was taken for the registry.
    split_domain(text).1.len() < text.len()
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let hex = !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            return hex && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let component = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(component) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is one component of a repository path: `[a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*`.
pub(crate) fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| alphanumeric(**byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = match rest {
            [] => return true,
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            _ => rest.iter().take_while(|byte| **byte == b'-').count(),
        };
        rest = &rest[separator..];
    }
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LIMIT && text.bytes().next().is_some_and(word) && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// What go-digest validates; more than [`super::Digest`] takes, whose error names the cause.
fn check_digest(text: &str) -> Result<(), DigestError> {
    match text.strip_prefix("sha384:") {
        Some(hex) if hex.len() == 96 && hex.bytes().all(is_lower_hex) => Ok(()),
        _ => text.parse::<super::Digest>().map(drop),
    }
}

/// The fault of a refused text that a reader would see first, if it is one of those.
fn remarkable(text: &str) -> Option<ReadingError> {
    if text.is_empty() {
        return Some(ReadingError::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-'))
    {
        return Some(ReadingError::Scheme(clip(scheme)));
    }
    let stranger =
        |character: &char| !(character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '/' | ':' | '@' | '[' | ']' | '+'));
    if let Some(found) = text.chars().find(stranger) {
        return Some(match found {
            _ if found.is_whitespace() => ReadingError::WhiteSpace,
            _ if found.is_control() => ReadingError::Control,
            '%' => ReadingError::Percent,
            _ => ReadingError::Character(clip(found.encode_utf8(&mut [0; 4]))),
        });
    }
    let (name, digest) = text.split_once('@').unwrap_or((text, ""));
    if digest.contains('/') {
        return Some(ReadingError::UserInformation);
    }
    if name.starts_with('/') || name.ends_with('/') || name.contains("//") {
        return Some(ReadingError::EmptySegment);
    }
    name.contains("..").then_some(ReadingError::DotDot)
}
