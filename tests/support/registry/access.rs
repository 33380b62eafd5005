//! Who may pull, and the token server.

use std::collections::HashMap;

use axum::{http::Method, response::Response};
use serde_json::json;

use super::{Recorded, error, errors, respond};

/// How the registry wants to be shown who asks.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Not at all.
    #[default]
    Open,
    /// User and password with each request.
    Basic { user: String, password: String },
    /// A token, for anybody or for the users listed.
    Bearer(TokenServer),
}

/// What the token server does.
#[derive(Clone, Debug)]
pub struct TokenServer {
    /// The realm of the challenge; its own `/token` when none.
    pub realm: Option<String>,
    /// Users and passwords; without any, everybody gets a token.
    pub users: HashMap<String, String>,
    /// A refresh token that is taken by POST.
    pub refresh_token: Option<String>,
    /// Whether POST is known at all.
    pub knows_post: bool,
    /// Whether tokens carry the right that was asked for.
    pub grants: bool,
    /// `expires_in` of the answer.
    pub expires_in: Option<u64>,
    /// The scope of the challenge when it is not the true one.
    pub challenged_scope: Option<String>,
    /// Who gets a token for which repositories, by what their names begin with; nobody's name is everybody. Without any, whoever gets a token gets
    /// it for whatever was asked; with some, everybody gets a token, and it is good for no more than this.
    pub rights: Vec<(Option<String>, String)>,
    /// The challenge for one who shows a bad token is `Basic`, as with Harbor.
    pub basic_for_bad_tokens: bool,
}

impl Default for TokenServer {
    fn default() -> Self {
        Self {
            realm: None,
            users: HashMap::new(),
            refresh_token: None,
            knows_post: true,
            grants: true,
            expires_in: Some(300),
            challenged_scope: None,
            rights: Vec::new(),
            basic_for_bad_tokens: false,
        }
    }
}

impl TokenServer {
    pub fn for_user(user: &str, password: &str) -> Self {
        Self { users: HashMap::from([(user.to_owned(), password.to_owned())]), ..Self::default() }
    }

    /// What begins so is for everybody, with `None`, or for a user.
    #[must_use]
    pub fn right(mut self, user: Option<&str>, begins: &str) -> Self {
        self.rights.push((user.map(str::to_owned), begins.to_owned()));
        self
    }

    fn grants(&self, user: Option<&str>, scope: &str) -> bool {
        let repository = scope.split(':').nth(1).unwrap_or_default();
        let may =
            |(who, begins): &(Option<String>, String)| (who.is_none() || who.as_deref() == user) && repository.starts_with(begins.as_str());
        self.grants && (self.rights.is_empty() || self.rights.iter().any(may))
    }
}

/// The door: what it wants to be shown, and what it has given out.
#[derive(Default)]
pub(super) struct Door {
    pub(super) access: Access,
    /// Tokens handed out and their scopes.
    pub(super) tokens: HashMap<String, Vec<String>>,
    /// How many there were.
    served: usize,
}

impl Door {
    pub(super) fn new(access: Access) -> Self {
        Self { access, ..Self::default() }
    }

    /// 401 with its challenge, unless the request shows what is wanted.
    pub(super) fn refusal(&self, request: &Recorded, repository: Option<&str>, own: &str) -> Option<Response> {
        let needed = repository.map(|repository| format!("repository:{repository}:pull"));
        let challenge = match &self.access {
            Access::Open => return None,
            Access::Basic { user, password } => {
                if request.basic() == Some((user.clone(), password.clone())) {
                    return None;
                }
                "Basic realm=\"Registry Realm\"".to_owned()
            }
            Access::Bearer(server) => {
                let shown = request.authorization().and_then(|value| value.strip_prefix("Bearer "));
                let scopes = shown.and_then(|token| self.tokens.get(token));
                if scopes.is_some_and(|scopes| needed.as_ref().is_none_or(|needed| scopes.contains(needed))) {
                    return None;
                }
                if request.authorization().is_some() && scopes.is_none() && server.basic_for_bad_tokens {
                    "Basic realm=\"harbor\"".to_owned()
                } else {
                    let realm = server.realm.clone().unwrap_or_else(|| format!("{own}/token"));
                    let scope = server.challenged_scope.clone().or(needed).map_or_else(String::new, |scope| format!(",scope=\"{scope}\""));
                    format!("Bearer realm=\"{realm}\",service=\"fake\"{scope}")
                }
            }
        };
        let headers = [("www-authenticate", challenge), ("content-type", "application/json".to_owned())];
        Some(respond(401, &headers, errors("UNAUTHORIZED", "authentication required")))
    }

    /// What the token server answers.
    pub(super) fn token(&mut self, request: &Recorded) -> Response {
        let Access::Bearer(server) = &self.access else { return error(404, "NOT_FOUND", "no token server") };
        let scopes: Vec<String> = request.values("scope").iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect();
        let known = if request.method == Method::POST {
            if !server.knows_post {
                return error(405, "UNSUPPORTED", "only GET");
            }
            server.refresh_token.is_some()
                && request.values("refresh_token").first() == server.refresh_token.as_ref()
                && !request.values("client_id").is_empty()
        } else {
            let shown = request.basic();
            let as_password = shown.as_ref().is_some_and(|(_, password)| Some(password) == server.refresh_token.as_ref());
            (server.users.is_empty() && server.refresh_token.is_none())
                || (shown.is_none() && !server.rights.is_empty())
                || as_password
                || shown.is_some_and(|(user, password)| server.users.get(&user) == Some(&password))
        };
        if !known || request.values("service") != ["fake"] {
            return respond(if request.method == Method::POST { 400 } else { 401 }, &[], errors("UNAUTHORIZED", "bad credentials"));
        }
        self.served += 1;
        let token = format!("token-{}", self.served);
        let mut body = json!({"token": token, "access_token": token});
        if let Some(seconds) = server.expires_in {
            body["expires_in"] = seconds.into();
        }
        let user = request.basic().map(|(user, _)| user);
        let granted = scopes.into_iter().filter(|scope| server.grants(user.as_deref(), scope)).collect();
        self.tokens.insert(token, granted);
        respond(200, &[("content-type", "application/json".to_owned())], body.to_string())
    }
}
