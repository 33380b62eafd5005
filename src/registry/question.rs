//! One question: redirects, tokens and retries on the way to one answer.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION},
};
use jiff::Timestamp;
use url::Url;

use super::{
    Answer, Credentials, Endpoint, Failure, Holder, Pass,
    address::Rules,
    challenge::{Challenge, challenge},
    failure::{retry_after, tidy},
    realm,
    slots::Slot,
    token::{self, TokenKey, Tokens},
    transport::{Hop, MOST_BYTES, Transport, outage, peer},
};
use crate::{facts::OutageKind, keyring::REFRESH_TOKEN_USER};

const MOST_REDIRECTS: usize = 5;
/// How long it is remembered that a registry wants Basic.
const BASIC_LIFETIME: Duration = Duration::from_secs(600);

/// One request as the registry is asked, before any redirect.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'static str,
    pub(super) body: Option<Bytes>,
    /// Bytes that the answer's body may have.
    pub(super) limit: usize,
}

/// One request as it goes out.
struct Sent<'a> {
    method: Method,
    url: &'a Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    limit: usize,
}

/// What goes with a question from its beginning to its end.
pub(super) struct Question<'a> {
    pub(super) transport: &'a Transport,
    pub(super) tokens: &'a Tokens,
    pub(super) endpoint: &'a Endpoint,
    pub(super) credentials: &'a Credentials,
    pub(super) scopes: &'a [String],
    /// What it may take of the registry.
    pub(super) pass: &'a Pass,
}

impl Question<'_> {
    /// The answer, with whatever authorization the registry wants. Never a 401.
    pub(super) async fn answer(&self, ask: &Ask) -> Result<Answer, Failure> {
        // The cache is told apart by the secret's content alone: the same secret has the same rights, whoever holds it.
        let slot = self.tokens.slot(TokenKey::new(self.endpoint, self.credentials.identity(Holder::Registry), self.scopes));
        if let Some(value) = slot.current() {
            let answer = self.fetch(ask, Some(&value)).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            slot.forget_if(|held| *held == value);
        }
        // Some registries challenge well only whoever shows nothing.
        let answer = self.fetch(ask, None).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(challenge) = challenge(&answer.headers) else {
            return Err(Failure::Unauthorized("the registry answers 401 and does not say what it wants".to_owned()));
        };
        let value = self.authorization(&slot, &challenge).await?;
        let answer = self.fetch(ask, Some(&value)).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        slot.forget_if(|held| *held == value);
        let told = match Failure::of(answer.status, &answer.headers, &answer.body, Timestamp::now()) {
            Failure::Unauthorized(told) => told,
            other => other.to_string(),
        };
        // A token was given for these credentials, so they are good; what it is good for is another matter. A token server may grant less than was asked.
        Err(match challenge {
            Challenge::Bearer { .. } if !self.credentials.is_anonymous() => Failure::Forbidden(told),
            _ => Failure::Unauthorized(told),
        })
    }

    /// Asks, follows redirects, and gives the last answer.
    ///
    /// `Authorization` goes to the registry's own origin and nowhere else; TLS once, TLS ever after; each host is held to the address rules that are its own.
    pub(super) async fn fetch(&self, ask: &Ask, authorization: Option<&HeaderValue>) -> Result<Answer, Failure> {
        let mut url = ask.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let at_home = url.origin() == ask.url.origin();
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
            if let (Some(value), true) = (authorization, at_home) {
                headers.insert(AUTHORIZATION, value.clone());
            }
            if ask.body.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            let answer = self
                .send(
                    Sent { method: ask.method.clone(), url: &url, headers, body: ask.body.clone(), limit: ask.limit },
                    self.rules_for(&url),
                )
                .await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                if answer.status == StatusCode::UNAUTHORIZED && !at_home {
                    let message = format!("the registry redirects to {}, which wants credentials; they are not sent there", peer(&url));
                    return Err(Failure::Misbehaved(tidy(&message, 256)));
                }
                return Ok(answer);
            }
            url = self.next(ask, &url, &answer.headers)?;
        }
        Err(Failure::Misbehaved(format!("the registry redirects more than {MOST_REDIRECTS} times")))
    }

    fn next(&self, ask: &Ask, url: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
        let misbehaved = |message: String| Failure::Misbehaved(tidy(&message, 256));
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location
            .and_then(|location| url.join(location).ok())
            .filter(|next| next.has_host() && next.username().is_empty() && next.password().is_none())
            .ok_or_else(|| misbehaved("the registry redirects to nowhere".to_owned()))?;
        if next.scheme() != "https" && !(next.scheme() == "http" && url.scheme() == "http" && self.endpoint.plain_http) {
            return Err(misbehaved(format!("the registry redirects to {}://{}, which has no TLS", next.scheme(), peer(&next))));
        }
        if !matches!(ask.method, Method::GET | Method::HEAD) {
            return Err(misbehaved(format!("the registry redirects a {} to {}, which is not followed", ask.method, peer(&next))));
        }
        Ok(next)
    }

    /// A listed registry's own hosts, and those of its domain, may be private; whoever else it sends us to may not.
    fn rules_for(&self, url: &Url) -> Rules {
        if self.is_near(url) && self.endpoint.listed { Rules::Listed } else { Rules::Public }
    }

    fn is_near(&self, url: &Url) -> bool {
        url.host_str()
            .is_some_and(|host| realm::is_own(self.endpoint, host) || (self.endpoint.listed && realm::is_relative(self.endpoint, host)))
    }

    async fn send(&self, sent: Sent<'_>, rules: Rules) -> Result<Answer, Failure> {
        let Sent { method, url, headers, body, limit } = sent;
        // The Registry's authorities vouch for its own hosts only.
        let authorities = self.endpoint.authorities.as_ref().filter(|_| self.is_near(url));
        let _turn = self.pass.turn().await?;
        let hop = Hop { limit, method, url, headers, body, rules, authorities, apart: self.pass.is_free() };
        let answer = self.pass.within(&peer(url), self.transport.send(hop)).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            // The line is told at once: others stand in it.
            let named = retry_after(&answer.headers, Timestamp::now());
            return Err(Failure::Throttled { retry_after: self.pass.throttled(named) });
        }
        self.pass.answered();
        Ok(answer)
    }

    /// What to show, from the token server or the credentials themselves. One asks for a key at a time; whoever waited finds it done.
    async fn authorization(&self, slot: &Slot<HeaderValue>, challenge: &Challenge) -> Result<HeaderValue, Failure> {
        let _renewing = slot.renewal.lock().await;
        if let Some(value) = slot.current() {
            return Ok(value);
        }
        let (value, lifetime) = match challenge {
            Challenge::Basic => (self.basic()?, BASIC_LIFETIME),
            Challenge::Bearer { realm, service, scopes, .. } => {
                self.token(realm, service.as_deref(), &token::scopes_to_ask(self.scopes, scopes)).await?
            }
        };
        slot.keep(value.clone(), lifetime);
        Ok(value)
    }

    fn basic(&self) -> Result<HeaderValue, Failure> {
        let value = match self.credentials {
            Credentials::Anonymous => {
                return Err(Failure::Unauthorized("the registry wants a user name and a password, and there are none".to_owned()));
            }
            Credentials::Basic { user, password } => token::basic(user, password),
            Credentials::RefreshToken { token } => token::basic(REFRESH_TOKEN_USER, token),
        };
        value.ok_or_else(|| Failure::Unauthorized("the credentials do not fit in a header".to_owned()))
    }

    async fn token(&self, realm: &str, service: Option<&str>, scopes: &[String]) -> Result<(HeaderValue, Duration), Failure> {
        let (realm, rules) =
            realm::permit(self.endpoint, realm, !self.credentials.is_anonymous()).map_err(|why| Failure::Misbehaved(tidy(&why, 256)))?;
        let posted = match self.credentials {
            Credentials::RefreshToken { token } => {
                Some(self.post_for_token(&realm, token::post_form(service, scopes, token), rules).await?)
            }
            _ => None,
        };
        // Token servers from before OAuth2 know GET alone.
        let answer = match posted.filter(|posted| !matches!(posted.status.as_u16(), 404 | 405)) {
            Some(posted) => posted,
            None => self.get_token(&token::get_url(&realm, service, scopes), rules).await?,
        };
        let server = peer(&realm);
        let misbehaved = |what: &str| Failure::Misbehaved(tidy(&format!("the token server {server} {what}"), 256));
        if answer.status.is_success() {
            return token::read_answer(&answer.body, Timestamp::now()).map_err(misbehaved);
        }
        if answer.status.is_redirection() {
            return Err(misbehaved("redirects, which is not followed"));
        }
        Err(match answer.status.as_u16() {
            // 400 is OAuth2's way to refuse a refresh token.
            status @ (400 | 401 | 403) => Failure::Unauthorized(tidy(&format!("the token server {server} refuses ({status})"), 256)),
            429 => Failure::of(answer.status, &answer.headers, &answer.body, Timestamp::now()),
            500..=599 => outage(OutageKind::ServerError, &format!("the token server {server} answered {}", answer.status)),
            _ => misbehaved(&format!("answers {}", answer.status)),
        })
    }

    async fn post_for_token(&self, realm: &Url, form: Bytes, rules: Rules) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.send(Sent { method: Method::POST, url: realm, headers, body: Some(form), limit: MOST_BYTES }, rules).await
    }

    async fn get_token(&self, url: &Url, rules: Rules) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        if !self.credentials.is_anonymous() {
            headers.insert(AUTHORIZATION, self.basic()?);
        }
        self.send(Sent { method: Method::GET, url, headers, body: None, limit: MOST_BYTES }, rules).await
    }
}
