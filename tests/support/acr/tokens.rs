//! The token server: `/oauth2/exchange` and `/oauth2/token`, and who a request is from.
//!
//! Tokens are JWTs. Azure's are signed with a key that clients cannot check and need not; these carry a keyed hash in that place, so that
//! only tokens of this registry are taken.

use std::{collections::HashMap, time::Duration};

use axum::response::Response;
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Inner, Role, Shared, answers};

const REFRESH_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
const ANONYMOUS: &str = "anonymous";

/// Makes tokens and knows them again.
pub struct Mint {
    key: aws_lc_rs::hmac::Key,
    minted: u64,
}

impl Mint {
    pub fn new() -> Self {
        let key = aws_lc_rs::hmac::Key::generate(aws_lc_rs::hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new());
        Self { key: key.expect("random bytes"), minted: 0 }
    }

    fn mint(&mut self, user: &str, audience: &str, grant: &str, life: Duration, more: &Value) -> String {
        self.minted += 1;
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "jti": format!("00000000-0000-4000-a000-{:012x}", self.minted),
            "sub": user, "iss": "Azure Container Registry", "aud": audience, "version": "1.0",
            "nbf": now - 900, "iat": now - 900, "exp": now + i64::try_from(life.as_secs()).expect("a life of years"),
            "grant_type": grant, "roles": [],
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let encode = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&json!({ "alg": "HS256", "typ": "JWT" })), encode(&claims));
        let mark = aws_lc_rs::hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mark))
    }

    pub fn entra(&mut self, user: &str, host: &str) -> String {
        self.mint(user, host, "entra", Duration::from_secs(3600), &json!({}))
    }

    pub fn refresh(&mut self, user: &str, host: &str) -> String {
        let more = json!({ "permissions": { "actions": ["read"], "notActions": [] }, "tenant": "00000000-0000-4000-b000-000000000000" });
        self.mint(user, host, "refresh_token", Duration::from_secs(3 * 3600), &more)
    }

    /// The claims of a token of this mint that is not over.
    fn read(&self, token: &str, grant: &str) -> Option<Value> {
        let (signed, mark) = token.rsplit_once('.')?;
        let mark = BASE64_URL_SAFE_NO_PAD.decode(mark).ok()?;
        aws_lc_rs::hmac::verify(&self.key, signed.as_bytes(), &mark).ok()?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let alive = claims["exp"].as_i64()? > Timestamp::now().as_second();
        (alive && claims["grant_type"] == grant).then_some(claims)
    }
}

/// Who a request is from, and what it may do there.
pub struct Caller {
    pub user: String,
    /// What its token is good for; nothing for a password, which is good for all that its roles permit.
    access: Option<Vec<(String, String)>>,
}

/// What came instead of a caller.
pub enum Stranger {
    /// Nothing was shown.
    Nobody,
    /// What was shown is not known, or over.
    Wrong,
}

impl Inner {
    fn roles(&self, user: &str) -> Vec<Role> {
        match self.identities.get(user) {
            Some(identity) => identity.roles.iter().copied().collect(),
            None if user == ANONYMOUS && self.switches.anonymous_pull => vec![Role::Pull],
            None => Vec::new(),
        }
    }

    /// Whether the identity's roles permit an action anywhere.
    pub fn permits(&self, user: &str, action: &str) -> bool {
        self.roles(user).iter().any(|role| match role {
            Role::Pull => matches!(action, "pull" | "metadata_read"),
            Role::Push => matches!(action, "pull" | "push" | "metadata_read" | "metadata_write"),
            Role::QuarantineReader | Role::QuarantineWriter => false,
        })
    }

    /// Whether it may see what is in quarantine.
    pub fn reads_quarantine(&self, user: &str) -> bool {
        let roles = self.roles(user);
        roles.contains(&Role::QuarantineReader) || roles.contains(&Role::QuarantineWriter)
    }

    /// Whether it may say what is in quarantine.
    pub fn writes_quarantine(&self, user: &str) -> bool {
        self.roles(user).contains(&Role::QuarantineWriter)
    }

    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Stranger> {
        let Some(shown) = headers.get(header::AUTHORIZATION) else { return Err(Stranger::Nobody) };
        let shown = shown.to_str().map_err(|_| Stranger::Wrong)?;
        if let Some(token) = shown.strip_prefix("Bearer ") {
            let claims = self.mint.read(token, "access_token").ok_or(Stranger::Wrong)?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let entries = claims["access"].as_array().cloned().unwrap_or_default();
            let access = entries.iter().flat_map(|entry| {
                let actions = entry["actions"].as_array().cloned().unwrap_or_default();
                actions.into_iter().map(|action| (text(&entry["name"]), text(&action))).collect::<Vec<_>>()
            });
            return Ok(Caller { user: text(&claims["sub"]), access: Some(access.collect()) });
        }
        self.password(shown).map(|user| Caller { user, access: None }).ok_or(Stranger::Wrong)
    }

    /// The user of an `Authorization: Basic`.
    fn password(&self, shown: &str) -> Option<String> {
        let pair = BASE64_STANDARD.decode(shown.strip_prefix("Basic ")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        if user == REFRESH_TOKEN_USER {
            let claims = self.mint.read(password, "refresh_token")?;
            return claims["sub"].as_str().map(ToOwned::to_owned);
        }
        (self.identities.get(user)?.password == password).then(|| user.to_owned())
    }

    /// The caller, if it may do this there; else the challenge.
    pub fn authorize(&self, host: &str, headers: &HeaderMap, repository: &str, action: &str) -> Result<Caller, Box<Response>> {
        // Clients that want to push are told to ask for both.
        let scope = if action == "push" { "pull,push" } else { action };
        let refuse = |fault| Err(Box::new(answers::challenge(host, Some((repository, scope)), fault)));
        match self.caller(headers) {
            Err(Stranger::Nobody) => refuse(None),
            Err(Stranger::Wrong) => refuse(Some("invalid_token")),
            Ok(caller) if caller.may(self, repository, action) => Ok(caller),
            Ok(_) => refuse(Some("insufficient_scope")),
        }
    }
}

impl Caller {
    fn may(&self, inner: &Inner, repository: &str, action: &str) -> bool {
        let granted = match &self.access {
            None => true,
            Some(access) => access.iter().any(|(name, granted)| name == repository && granted == action),
        };
        granted && inner.permits(&self.user, action)
    }
}

/// `POST /oauth2/exchange`.
pub fn exchange(shared: &Shared, form: &[(String, String)]) -> Response {
    let mut inner = shared.inner.lock();
    let field = |name: &str| form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
    if field("grant_type") != "access_token" || field("service") != &*shared.host {
        return answers::bad("UNSUPPORTED", "grant_type or service is not known here");
    }
    match inner.mint.read(field("access_token"), "entra") {
        Some(claims) => {
            let token = inner.mint.refresh(claims["sub"].as_str().unwrap_or_default(), &shared.host);
            answers::json_answer(StatusCode::OK, &json!({ "refresh_token": token }))
        }
        None => answers::challenge(&shared.host, None, Some("invalid_token")),
    }
}

/// `GET` (with a password or nothing) and `POST` (with a refresh token) of `/oauth2/token`. There is no `expires_in`: `exp` is in the token.
pub fn token(shared: &Shared, method: &Method, headers: &HeaderMap, fields: &[(String, String)]) -> Response {
    let mut inner = shared.inner.lock();
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if field("service") != Some(&*shared.host) {
        return answers::bad("UNSUPPORTED", "service is not known here");
    }
    let user = if *method == Method::POST {
        if field("grant_type") != Some("refresh_token") {
            return answers::bad("UNSUPPORTED", "grant_type is not known here");
        }
        let claims = field("refresh_token").and_then(|token| inner.mint.read(token, "refresh_token"));
        claims.and_then(|claims| claims["sub"].as_str().map(ToOwned::to_owned))
    } else {
        match headers.get(header::AUTHORIZATION).map(|shown| shown.to_str().unwrap_or_default()) {
            Some(shown) => inner.password(shown),
            None => inner.switches.anonymous_pull.then(|| ANONYMOUS.to_owned()),
        }
    };
    let Some(user) = user else { return answers::challenge(&shared.host, None, None) };
    let mut granted: HashMap<(String, String), Vec<String>> = HashMap::new();
    for scope in fields.iter().filter(|(name, _)| name == "scope").flat_map(|(_, value)| value.split_whitespace()) {
        let Some((kind, name, actions)) = read_scope(scope) else { return answers::bad("UNSUPPORTED", "scope cannot be read") };
        let permitted = actions.split(',').filter(|action| match kind {
            "registry" => inner.permits(&user, "pull"),
            _ => inner.permits(&user, action),
        });
        let permitted: Vec<String> = permitted.map(ToOwned::to_owned).collect();
        granted.entry((kind.to_owned(), name.to_owned())).or_default().extend(permitted);
    }
    let access: Vec<_> =
        granted.into_iter().map(|((kind, name), actions)| json!({ "type": kind, "name": name, "actions": actions })).collect();
    let life = inner.switches.token_life;
    let token = inner.mint.mint(&user, &shared.host, "access_token", life, &json!({ "access": access }));
    answers::json_answer(StatusCode::OK, &json!({ "access_token": token }))
}

/// `type:name:action,action`; the name may hold colons of its own.
fn read_scope(scope: &str) -> Option<(&str, &str, &str)> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    (matches!(kind, "repository" | "registry") && !name.is_empty() && !actions.is_empty()).then_some((kind, name, actions))
}
