//! One key of a Docker configuration, read and matched as the kubelet does.

use std::fmt;

/// Where the kubelet looks for Docker Hub's credentials when no key matches by itself.
pub(super) const DEFAULT_REGISTRY: &str = "index.docker.io";

/// `host[:port][/path]`, whose host may hold globs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// With the port, as written.
    authority: String,
    /// Empty, or beginning with `/`.
    path: String,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.authority, self.path)
    }
}

impl Key {
    /// Reads a location such as `https://index.docker.io/v1/` or `*.example.io/team`. `None` where the kubelet ignores it: Go's URL parser refuses it.
    ///
    /// Percent signs are not decoded: a location with one is ignored, though the kubelet would decode its path. No repository holds what could be so written.
    pub(super) fn read(location: &str) -> Option<Self> {
        let rest = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'%' || byte == b'\\') {
            return None;
        }
        // A query or fragment belongs to neither host nor path, so that `?` is no glob here though Go's `Match` knows it.
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (_, port) = split_port(authority);
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
        let path = if path == "/" { "" } else { path };
        Some(Self { authority: authority.to_owned(), path: path.to_owned() })
    }

    /// Whether it is for an image, given as host and repository.
    pub(super) fn matches(&self, image: &str) -> bool {
        let path = image.find('/').map_or("", |slash| image.split_at(slash).1);
        // A plain prefix: `/team` is for `/teamster`, too.
        path.starts_with(&self.path) && self.matches_host(image)
    }

    /// Whether it is for the host of an image: the same port, the same number of labels, each label a glob of its own.
    pub(super) fn matches_host(&self, image: &str) -> bool {
        let (glob, glob_port) = split_port(&self.authority);
        let (host, port) = split_port(image.split('/').next().unwrap_or_default());
        glob_port == port
            && glob.split('.').count() == host.split('.').count()
            && glob.split('.').zip(host.split('.')).all(|(glob, label)| glob_matches(glob.as_bytes(), label.as_bytes()))
    }
}

/// Whether the kubelet takes it for an image of Docker Hub.
pub(super) fn is_default_registry(image: &str) -> bool {
    match image.split_once('/') {
        None => !image.is_empty(),
        Some(("", _)) => false,
        Some((first, _)) => matches!(first, "docker.io" | "index.docker.io") || !first.contains(['.', ':']),
    }
}

/// Host and port, as Go's `net.SplitHostPort` parts them; the port is empty when there is none.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            (inner.unwrap_or(host), port)
        }
        _ => (authority, ""),
    }
}

/// Go's `filepath.Match` for a name without separators: `*`, classes with ranges and `^`. A pattern that Go cannot read matches nothing.
fn glob_matches(mut glob: &[u8], mut name: &[u8]) -> bool {
    // Where to go on when what follows the last star does not match here.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match glob.first() {
            Some(b'*') => {
                glob = &glob[1..];
                again = Some((glob, name));
                continue;
            }
            Some(_) if !name.is_empty() => match one(glob, name[0]) {
                Some((true, rest)) => {
                    glob = rest;
                    name = &name[1..];
                    continue;
                }
                Some((false, _)) => {}
                None => return false,
            },
            None if name.is_empty() => return true,
            _ => {}
        }
        match again {
            Some((after, [_, rest @ ..])) => {
                glob = after;
                name = rest;
                again = Some((after, rest));
            }
            _ => return false,
        }
    }
}

/// Whether the first element of a glob matches a byte, and what follows the element. `None`: the glob cannot be read.
fn one(glob: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let [b'[', class @ ..] = glob else {
        let (first, rest) = glob.split_first()?;
        return Some((*first == byte, rest));
    };
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    let mut ranges = 0;
    loop {
        match class {
            [b']', rest @ ..] if ranges > 0 => return Some((found != negated, rest)),
            [b'-' | b']', ..] | [] => return None,
            [low, b'-', high, rest @ ..] if !matches!(high, b'-' | b']') => {
                found |= (*low..=*high).contains(&byte);
                class = rest;
            }
            [_, b'-', ..] => return None,
            [single, rest @ ..] => {
                found |= *single == byte;
                class = rest;
            }
        }
        ranges += 1;
    }
}
