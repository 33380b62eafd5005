//! What to show a registry, how long it is good for, and how to ask a token server for it (Docker's token and OAuth2 specifications, in distribution's
//! `docs/content/spec/auth`).

use std::time::Duration;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::HeaderValue;
use jiff::Timestamp;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{Authorities, CredentialIdentity, Endpoint, slots::Slots};

/// Entries beyond this many push out those that end soonest.
pub(super) const MOST_TOKENS: usize = 4096;
/// What a token without a word about its end is good for.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// No token is kept longer, that a right taken away is noticed.
const MOST_LIFETIME: Duration = Duration::from_secs(1800);
/// No more scopes than this are taken from a challenge.
const MOST_CHALLENGED_SCOPES: usize = 4;

/// What a token is kept by: all that decided how it was come by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    base: Url,
    listed: bool,
    authorities: Option<Authorities>,
    identity: CredentialIdentity,
    scopes: Vec<String>,
}

impl TokenKey {
    pub(super) fn new(endpoint: &Endpoint, identity: CredentialIdentity, scopes: &[String]) -> Self {
        Self {
            base: endpoint.base.clone(),
            listed: endpoint.listed,
            authorities: endpoint.authorities.clone(),
            identity,
            scopes: scopes.to_vec(),
        }
    }
}

/// What was last found good, by key: values of `Authorization`.
pub(super) type Tokens = Slots<TokenKey, HeaderValue>;

/// The scopes to ask for: the caller's, and of the registry's those that ask for no more than reading or what the caller asks for. A registry behind a path of its own
/// (Artifactory, Nexus) knows its repositories by longer names than we do.
pub(super) fn scopes_to_ask(ours: &[String], challenged: &[String]) -> Vec<String> {
    let wanted: Vec<&str> = ours.iter().flat_map(|scope| actions(scope)).collect();
    let harmless = |scope: &&String| {
        let mut any = actions(scope).peekable();
        any.peek().is_some() && any.all(|action| matches!(action, "pull" | "metadata_read") || wanted.contains(&action))
    };
    let mut scopes = ours.to_vec();
    for scope in challenged.iter().take(MOST_CHALLENGED_SCOPES).filter(harmless) {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

/// `type:name:action[,action]`; the name may hold colons.
fn actions(scope: &str) -> impl Iterator<Item = &str> {
    let list = scope.split_once(':').and_then(|(_, rest)| rest.rsplit_once(':')).map_or("", |(_, actions)| actions);
    list.split(',').filter(|action| !action.is_empty())
}

/// `Authorization: Basic`.
pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The URL of a token request by GET. The realm may have a query of its own.
pub(super) fn get_url(realm: &Url, service: Option<&str>, scopes: &[String]) -> Url {
    let mut url = realm.clone();
    url.set_fragment(None);
    if service.is_some() || !scopes.is_empty() {
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
    }
    url
}

/// The form of a token request by POST with a refresh token.
pub(super) fn post_form(service: Option<&str>, scopes: &[String], refresh_token: &str) -> Bytes {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("client_id", "lazaretto");
    form.extend_pairs(service.map(|service| ("service", service)));
    if !scopes.is_empty() {
        form.append_pair("scope", &scopes.join(" "));
    }
    form.append_pair("refresh_token", refresh_token);
    form.finish().into()
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

/// What a token server answered: the value to show, and how long to keep it, which may be not at all.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn read_answer(body: &[u8], now: Timestamp) -> Result<(HeaderValue, Duration), &'static str> {
    // What serde says may quote the token.
    let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| "answers with something other than a token")?;
    let token =
        [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty()).ok_or("answers without a token")?;
    let value = sensitive(&format!("Bearer {token}")).ok_or("answers with a token that is not fit for a header")?;
    let said = answer.expires_in.as_ref().and_then(seconds);
    let lifetime = said.or_else(|| left_by_its_claims(&token, now)).unwrap_or(DEFAULT_LIFETIME).min(MOST_LIFETIME);
    // Better asked for once too often than shown too late.
    let margin = (lifetime / 5).min(Duration::from_secs(30));
    Ok((value, lifetime.saturating_sub(margin)))
}

/// A number of seconds, also as text or with a fraction.
fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(MOST_LIFETIME))
}

/// The time to the `exp` of a JWT; the token is opaque to us otherwise. None when it is no JWT.
fn left_by_its_claims(token: &str, now: Timestamp) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let left = claims.exp - now.as_duration().as_secs_f64();
    Some(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(MOST_LIFETIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_000_000, 0);

    fn jwt(claims: &str) -> String {
        format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_kept_as_long_as_it_says_less_a_margin() {
        let cases = [
            (r#"{"token":"t","expires_in":300}"#.to_owned(), 270),
            (r#"{"token":"t","expires_in":10}"#.to_owned(), 8),
            (r#"{"token":"t","expires_in":"300"}"#.to_owned(), 270),
            (r#"{"token":"t","expires_in":1e300}"#.to_owned(), 1770),
            (r#"{"token":"t","expires_in":0}"#.to_owned(), 0),
            (r#"{"token":"t","expires_in":-5}"#.to_owned(), 48),
            (r#"{"token":"t"}"#.to_owned(), 48),
            (format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":1000100}"#)), 80),
            (format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":1004500,"iat":0}"#)), 1770),
            (format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":999999}"#)), 0),
            (format!(r#"{{"access_token":"{}"}}"#, jwt("{}")), 48),
        ];
        for (body, kept) in cases {
            assert_eq!(read_answer(body.as_bytes(), NOW).map(|(_, lifetime)| lifetime), Ok(Duration::from_secs(kept)), "{body}");
        }
    }

    #[test]
    fn a_token_may_have_either_name_and_an_answer_without_one_is_none() {
        // Harbor has both keys, one of them empty.
        for body in
            [r#"{"token":"t"}"#, r#"{"access_token":"t"}"#, r#"{"token":"t","access_token":""}"#, r#"{"token":"","access_token":"t"}"#]
        {
            let (value, _) = read_answer(body.as_bytes(), NOW).unwrap();
            assert_eq!(value, "Bearer t");
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
        for (body, error) in [
            ("{}", "answers without a token"),
            (r#"{"token":""}"#, "answers without a token"),
            (r#"{"token":"a\nb"}"#, "answers with a token that is not fit for a header"),
            (r#"{"token":7}"#, "answers with something other than a token"),
            ("<html>", "answers with something other than a token"),
        ] {
            assert_eq!(read_answer(body.as_bytes(), NOW).unwrap_err(), error);
        }
    }

    #[test]
    fn a_challenge_widens_what_is_asked_by_reading_at_most() {
        let ours = vec!["repository:team/app:pull".to_owned()];
        let ask = |ours: &[String], challenged: &[&str]| {
            scopes_to_ask(ours, &challenged.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(ask(&ours, &[]), ours);
        assert_eq!(ask(&ours, &["repository:team/app:pull"]), ours);
        assert_eq!(
            ask(&ours, &["repository:docker-local/team/app:pull"]),
            ["repository:team/app:pull", "repository:docker-local/team/app:pull"]
        );
        assert_eq!(ask(&ours, &["repository:team/app:metadata_read,pull"]).len(), 2);
        for wider in
            ["repository:team/app:pull,push", "repository:team/app:*", "registry:catalog:*", "repository:x:delete", "nonsense", "a::", ""]
        {
            assert_eq!(ask(&ours, &[wider]), ours, "{wider}");
        }
        let pushing = vec!["repository:team/app:pull,push".to_owned()];
        assert_eq!(ask(&pushing, &["repository:long/team/app:push"]).len(), 2);
        assert_eq!(ask(&[], &["a:b:pull"; 9]), ["a:b:pull"]);
        assert_eq!(ask(&[], &["a:1:pull", "a:2:pull", "a:3:pull", "a:4:pull", "a:5:pull"]).len(), 4);
    }

    #[test]
    fn token_requests_are_written_as_the_specification_says() {
        let realm: Url = "https://auth.example/token?account=x#frag".parse().unwrap();
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        assert_eq!(
            get_url(&realm, Some("reg.example"), &scopes).as_str(),
            "https://auth.example/token?account=x&service=reg.example&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
        );
        assert_eq!(get_url(&"https://auth.example/token".parse().unwrap(), None, &[]).as_str(), "https://auth.example/token");
        assert_eq!(
            post_form(Some("reg.example"), &scopes, "a+b/c"),
            "grant_type=refresh_token&client_id=lazaretto&service=reg.example&scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull&refresh_token=a%2Bb%2Fc"
        );
        assert_eq!(basic("robot", "s3a:gull").unwrap(), "Basic cm9ib3Q6czNhOmd1bGw=");
    }
}
