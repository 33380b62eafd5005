//! `WWW-Authenticate` (RFC 9110, 11.6.1), read by parameters and never by position.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// Longer headers are cut: no registry needs them.
const MOST_BYTES: usize = 8 << 10;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a token server.
    Bearer {
        /// The token server's URL as it was given.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
        /// The scopes that the registry thinks are needed.
        scopes: Vec<String>,
        /// Why the token that was shown is not enough: `invalid_token`, `insufficient_scope`.
        error: Option<String>,
    },
    /// User and password.
    Basic,
}

/// The challenge to meet: Bearer when there is one that names a realm, else Basic. Others, and what cannot be read, are passed over.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let all: Vec<_> = values.flat_map(|value| parse(value.get(..MOST_BYTES).unwrap_or(value))).collect();
    let bearer = all.iter().position(|found| matches!(found, Challenge::Bearer { .. })).unwrap_or(0);
    all.into_iter().nth(bearer)
}

/// All challenges of one header value that are Bearer with a realm, or Basic.
fn parse(value: &str) -> Vec<Challenge> {
    let mut reader = Reader(value);
    let mut found = Vec::new();
    while let Some(scheme) = reader.scheme() {
        let parameters = reader.parameters();
        let get = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("bearer") {
            if let Some(realm) = get("realm") {
                let scopes = get("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
                found.push(Challenge::Bearer { realm, service: get("service"), scopes, error: get("error") });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        }
    }
    found
}

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip(&mut self, characters: &[char]) {
        self.0 = self.0.trim_start_matches(characters);
    }

    fn token(&mut self) -> &'a str {
        let end = self
            .0
            .find(|character: char| !(character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(character)))
            .unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    /// The next scheme. What is no token is skipped over, up to the next comma.
    fn scheme(&mut self) -> Option<&'a str> {
        loop {
            self.skip(&[' ', '\t', ',']);
            if self.0.is_empty() {
                return None;
            }
            let scheme = self.token();
            if !scheme.is_empty() {
                return Some(scheme);
            }
            self.0 = self.0.find(',').map_or("", |comma| &self.0[comma..]);
        }
    }

    /// The parameters up to the next scheme: a name that no `=` follows is that scheme.
    fn parameters(&mut self) -> Vec<(&'a str, String)> {
        let mut parameters = Vec::new();
        loop {
            self.skip(&[' ', '\t', ',']);
            let before = self.0;
            let name = self.token();
            self.skip(&[' ', '\t']);
            let Some(rest) = self.0.strip_prefix('=').filter(|_| !name.is_empty()) else {
                self.0 = before;
                return parameters;
            };
            self.0 = rest;
            self.skip(&[' ', '\t']);
            let value = if self.0.starts_with('"') { self.quoted() } else { self.token().to_owned() };
            parameters.push((name, value));
        }
    }

    /// A quoted string with backslash escapes; one that does not end ends with the header.
    fn quoted(&mut self) -> String {
        let mut text = String::new();
        let mut characters = self.0.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return text;
                }
                '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                other => text.push(other),
            }
        }
        self.0 = "";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scopes: scopes.iter().map(|&scope| scope.into()).collect(),
            error: None,
        }
    }

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let cases: &[(&[&str], Option<Challenge>)] = &[
            (&[], None),
            (
                &[r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#],
                Some(bearer("https://auth.docker.io/token", Some("registry.docker.io"), &["repository:library/alpine:pull"])),
            ),
            // any order, any case, spaces, no quotes, an escape
            (
                &[r#"bearer  SCOPE="a:b:pull  c:d:pull" , service=reg.example, Realm = "https://auth.example/t\oken?x=\"1\"""#],
                Some(bearer(r#"https://auth.example/token?x="1""#, Some("reg.example"), &["a:b:pull", "c:d:pull"])),
            ),
            // a comma in quotes parts nothing
            (
                &[r#"Bearer realm="https://a/t",scope="repository:x:pull,push""#],
                Some(bearer("https://a/t", None, &["repository:x:pull,push"])),
            ),
            // several in one header and in several headers: Bearer first
            (&[r#"Basic realm="harbor", Bearer realm="https://a/t",service="s""#], Some(bearer("https://a/t", Some("s"), &[]))),
            (&[r#"Basic realm="x""#, "Negotiate abc==", r#"Bearer realm="https://a/t""#], Some(bearer("https://a/t", None, &[]))),
            (&[r#"BASIC realm="Sonatype Nexus Repository Manager""#], Some(Challenge::Basic)),
            (&["Basic"], Some(Challenge::Basic)),
            // a realm inside another scheme's parameters is not Bearer's
            (&[r#"Bearer error="invalid_token", Basic realm="x""#], Some(Challenge::Basic)),
            (&[r#"Digest realm="https://a/t", nonce="Bearer realm=b""#], None),
            // broken ones
            (&[r#"Bearer realm="https://a/t"#], Some(bearer("https://a/t", None, &[]))),
            (&["Bearer"], None),
            (&["=,;, \"\" Bearer"], None),
            (&["(), Basic"], Some(Challenge::Basic)),
        ];
        for (values, expected) in cases {
            assert_eq!(of(values), *expected, "{values:?}");
        }
    }

    #[test]
    fn the_reason_for_a_refused_token_is_kept() {
        let found = of(&[r#"Bearer realm="https://a/t",error="insufficient_scope""#]);
        assert!(matches!(found, Some(Challenge::Bearer { error: Some(error), .. }) if error == "insufficient_scope"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_ends_somewhere(value in "[ -~]{0,200}") {
            parse(&value);
        }
    }
}
