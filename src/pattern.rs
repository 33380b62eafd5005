//! Patterns for image names, as policies and registries write them.
//!
//! A pattern is matched with a whole canonical name, `registry/repository`, part by part: `/` is the only separator.
//!
//! | in a part | matches |
//! |---|---|
//! | `*` | any run of characters in this part, none included; so `team-*`, and in a host `*.corp` also `a.b.corp` |
//! | `**`, alone in its part | any number of parts, none included; as the last part, one or more |
//! | anything else | itself |
//!
//! `registry.corp/team/**` so speaks of `registry.corp/team/app` and all below, but not of `registry.corp/team`. `**` alone speaks of
//! every image.
//!
//! A pattern that can match no canonical name is refused: a rule that silently speaks of nothing would let pass what its author
//! meant to stop. So a pattern has to spell out `docker.io/library/nginx`, because `nginx` is nobody's canonical name.

use crate::image::{HostError, canonical_host, clip, is_path_component};

/// Longest pattern in bytes: longer matches no name.
pub const PATTERN_LIMIT: usize = 255;

/// A pattern made ready.
///
/// Most patterns of a policy speak of another registry or path than the image at hand, so what every match begins with stands apart:
/// one comparison of bytes settles those, and nothing is taken apart for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What every name begins with that it matches, up to and with a slash unless it is the whole name.
    begins: Box<str>,
    rest: Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing may follow.
    Nothing,
    /// Anything has to follow: `**` as the last part.
    Anything,
    /// Parts that match these.
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One part of the name, with `*` for any run of characters.
    One(Box<str>),
    /// Any number of parts, none included.
    Many,
}

/// Why a text is no pattern. The sentence says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing is there.
    #[error("the pattern is empty: write ** for every image")]
    Empty,
    /// It exceeds [`PATTERN_LIMIT`].
    #[error("the pattern is longer than {PATTERN_LIMIT} characters, and so is no name")]
    TooLong,
    /// An upper-case letter: canonical names have none.
    #[error("the pattern has upper-case letters, and names are compared in lower case: write it in lower case")]
    UpperCase,
    /// A character that stands in no name.
    #[error("`{0}` cannot stand in a pattern: use a-z, 0-9, . _ - / and *")]
    Character(String),
    /// Nothing between two slashes, or before the first, or after the last.
    #[error("the pattern has a slash too many, at its start, at its end or doubled: leave it out")]
    EmptyPart,
    /// `**` beside other characters.
    #[error("** stands alone between slashes: write /**/ for any number of parts, or a single * within a part")]
    Many,
    /// `:tag`.
    #[error("a pattern names repositories, not tags: leave out `:{0}`")]
    Tag(String),
    /// `@digest`.
    #[error("a pattern names repositories, not digests: leave out all from the @")]
    Digest,
    /// It names no host.
    #[error("the pattern names no registry: write {0}")]
    NoHost(String),
    /// It names a host only, and no name is that short.
    #[error("the pattern names no repository: write {0}/** for all of the registry")]
    NoRepository(String),
    /// It names Docker Hub, where every name has two parts at least.
    #[error("at Docker Hub every repository has two parts: write {0}")]
    DockerHub(String),
    /// The host is not as it stands in canonical names.
    #[error("the host is not as names have it: write {0}")]
    Host(String),
    /// The host is refused in names, too.
    #[error(transparent)]
    RefusedHost(#[from] HostError),
    /// A part without `*` that is no part of any repository path.
    #[error("`{0}` is no part of a repository path, so the pattern matches nothing")]
    Component(String),
}

const ANY_HOST: char = '*';
const HUB: &str = "docker.io";

impl Pattern {
    /// Reads a pattern for whole names: `registry.corp/team/**`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        check(text, &['[', ']'])?;
        if text == "**" {
            return compile(text);
        }
        let (host, path) = match text.split_once('/') {
            Some((host, path)) => (host, Some(path)),
            None => (text, None),
        };
        let named = host.starts_with(ANY_HOST) || host.contains(['.', ':']) || host == "localhost";
        match path {
            // Without a slash, what follows a colon is a tag to everybody.
            None if host.contains(':') => return Err(tag(host)),
            None if named => return Err(PatternError::NoRepository(host.to_owned())),
            None => return Err(PatternError::NoHost(format!("{HUB}/library/{text}"))),
            Some(_) if !named => return Err(PatternError::NoHost(format!("{HUB}/{text}"))),
            Some(path) => check_path(path)?,
        }
        let path = path.unwrap_or_default();
        if host == HUB && path != "**" && !path.contains('/') {
            return Err(PatternError::DockerHub(format!("{HUB}/library/{path}")));
        }
        check_host(host)?;
        compile(text)
    }

    /// Reads a pattern for repository paths, without the registry: `team/**`.
    pub fn parse_path(text: &str) -> Result<Self, PatternError> {
        check(text, &[])?;
        check_path(text)?;
        compile(text)
    }

    /// Whether it speaks of a canonical name (or repository path, if it was read as one).
    ///
    /// At most in the order of the two lengths multiplied: only the latest `**`, and within a part the latest `*`, is ever tried
    /// again, since where a later one was reached an earlier one cannot do better.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some(rest) = name.strip_prefix(&*self.begins) else { return false };
        match &self.rest {
            Rest::Nothing => rest.is_empty(),
            Rest::Anything => !rest.is_empty(),
            Rest::Parts(parts) => {
                let names: Vec<&str> = rest.split('/').collect();
                wild(parts, &names, |part| *part == Part::Many, |part, name| matches!(part, Part::One(glob) if matches_part(glob, name)))
            }
        }
    }
}

fn matches_part(glob: &str, name: &str) -> bool {
    wild(glob.as_bytes(), name.as_bytes(), |byte| *byte == b'*', |glob, byte| glob == byte)
}

/// Whether a sequence matches a pattern in which some items stand for any run of items.
fn wild<P, N>(pattern: &[P], name: &[N], any: impl Fn(&P) -> bool, one: impl Fn(&P, &N) -> bool) -> bool {
    let (mut at, mut here) = (0, 0);
    // After the latest wild item: where the pattern goes on, and where the run that it took ends.
    let mut again = None;
    while here < name.len() {
        if pattern.get(at).is_some_and(&any) {
            at += 1;
            again = Some((at, here));
        } else if pattern.get(at).is_some_and(|item| one(item, &name[here])) {
            at += 1;
            here += 1;
        } else if let Some((after, end)) = again {
            at = after;
            here = end + 1;
            again = Some((after, here));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(any)
}

fn compile(text: &str) -> Result<Pattern, PatternError> {
    let parts: Vec<&str> = text.split('/').collect();
    if parts.iter().any(|part| part.contains("**") && *part != "**") {
        return Err(PatternError::Many);
    }
    let literal = parts.iter().take_while(|part| !part.contains('*')).count();
    if literal == parts.len() {
        return Ok(Pattern { begins: text.into(), rest: Rest::Nothing });
    }
    let begins: String = parts[..literal].iter().flat_map(|part| [*part, "/"]).collect();
    let rest = match &parts[literal..] {
        ["**"] => Rest::Anything,
        rest => {
            let one = |part: &&str| if *part == "**" { Part::Many } else { Part::One((*part).into()) };
            let mut rest: Vec<Part> = rest.iter().map(one).collect();
            // As the last part it stands for one or more.
            if rest.last() == Some(&Part::Many) {
                rest.insert(rest.len() - 1, Part::One("*".into()));
            }
            Rest::Parts(rest)
        }
    };
    Ok(Pattern { begins: begins.into(), rest })
}

/// What holds of every pattern, in the order in which an author would want to hear of it.
fn check(text: &str, also: &[char]) -> Result<(), PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    if text.len() > PATTERN_LIMIT {
        return Err(PatternError::TooLong);
    }
    if text.contains('@') {
        return Err(PatternError::Digest);
    }
    let known = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '/' | ':' | '*') || also.contains(&character)
    };
    if let Some(found) = text.chars().find(|character| !known(*character)) {
        return Err(PatternError::Character(found.escape_default().to_string()));
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(PatternError::UpperCase);
    }
    if text.split('/').any(str::is_empty) {
        return Err(PatternError::EmptyPart);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), PatternError> {
    for part in path.split('/') {
        if part.contains(':') {
            return Err(tag(part));
        }
        // A part with `*` is not looked into further: what it may match depends on what the `*` takes.
        let possible = if part.contains('*') { !part.contains(['[', ']']) } else { is_path_component(part) };
        if !possible {
            return Err(PatternError::Component(clip(part)));
        }
    }
    Ok(())
}

fn check_host(host: &str) -> Result<(), PatternError> {
    if host.contains('*') {
        let without = host.strip_suffix(":443");
        return without.map_or(Ok(()), |without| Err(PatternError::Host(without.to_owned())));
    }
    let canonical = canonical_host(host)?;
    if canonical == host { Ok(()) } else { Err(PatternError::Host(canonical.into_owned())) }
}

fn tag(part: &str) -> PatternError {
    PatternError::Tag(clip(part.split_once(':').map_or("", |(_, tag)| tag)))
}

#[cfg(test)]
mod tests;
