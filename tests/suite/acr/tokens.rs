//! The stand-in's token server, and the keeper's way through it.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Method;
use lazaretto::{
    api::State,
    registry::{Credentials, Failure},
};
use serde_json::{Value, json};

use super::{
    REPOSITORY, Reply, attributes_path, basic, bearer, client, get, image, manifest_path, observe, observe_by, pulling, send, state,
};
use crate::support::acr::{ONLOOKER, PULLER, READER, StandIn};

const FORM: &str = "application/x-www-form-urlencoded";

async fn form(acr: &StandIn, path: &str, fields: &[(&str, &str)]) -> Reply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    send(acr, Method::POST, path, None, Some((FORM, body.into_bytes()))).await
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn challenges_say_where_and_for_what_to_ask() {
    let acr = StandIn::start();
    let host = acr.host();
    let reply = send(&acr, Method::GET, "/v2/", None, None).await;
    assert_eq!(reply.error(), (401, "UNAUTHORIZED".into()));
    assert_eq!(reply.challenge(), format!(r#"Bearer realm="http://{host}/oauth2/token",service="{host}""#));
    let reply = send(&acr, Method::GET, &manifest_path("1"), None, None).await;
    assert_eq!(
        reply.challenge(),
        format!(r#"Bearer realm="http://{host}/oauth2/token",service="{host}",scope="repository:tide/gate:pull""#)
    );
    assert_eq!(reply.json()["errors"][0]["detail"], json!([{ "Type": "repository", "Name": REPOSITORY, "Action": "pull" }]));
    let reply = get(&acr, &manifest_path("1"), "Bearer made.up.token").await;
    assert!(reply.challenge().ends_with(r#",error="invalid_token""#), "{}", reply.challenge());
    acr.switch(|switches| switches.metadata_scopes = true);
    let reply = send(&acr, Method::PATCH, &attributes_path("sha256:x"), None, None).await;
    assert!(reply.challenge().ends_with(r#",scope="repository:tide/gate:metadata_write""#), "{}", reply.challenge());
}

#[tokio::test]
async fn an_entra_token_becomes_a_refresh_token_becomes_an_access_token() {
    let acr = StandIn::start();
    let host = acr.host();
    let entra = acr.entra_token("reader");
    let exchange = [("grant_type", "access_token"), ("service", host.as_str()), ("access_token", entra.as_str())];
    let reply = form(&acr, "/oauth2/exchange", &exchange).await;
    assert_eq!(reply.status, 200);
    let refresh = reply.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&refresh)["grant_type"], "refresh_token");
    let scope = "repository:tide/gate:pull,push";
    let reply =
        form(&acr, "/oauth2/token", &[("grant_type", "refresh_token"), ("service", &host), ("scope", scope), ("refresh_token", &refresh)])
            .await;
    let answer = reply.json();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["access_token"], "there is no expires_in");
    let claims = claims(answer["access_token"].as_str().unwrap());
    assert_eq!(claims["access"], json!([{ "type": "repository", "name": REPOSITORY, "actions": ["pull"] }]), "less than was asked");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 75 * 60 + 900);

    for wrong in [
        [("grant_type", "access_token"), ("service", host.as_str()), ("access_token", refresh.as_str())],
        [("grant_type", "access_token"), ("service", host.as_str()), ("access_token", "x")],
    ] {
        assert_eq!(form(&acr, "/oauth2/exchange", &wrong).await.status, 401);
    }
    for wrong in [
        [("grant_type", "access_token"), ("service", "other.azurecr.io"), ("access_token", entra.as_str())],
        [("grant_type", "password"), ("service", host.as_str()), ("access_token", entra.as_str())],
    ] {
        assert_eq!(form(&acr, "/oauth2/exchange", &wrong).await.status, 400);
    }
}

#[tokio::test]
async fn the_token_server_refuses_what_it_does_not_know() {
    let acr = StandIn::start();
    let host = acr.host();
    let ask = async |query: String, identity| {
        send(&acr, Method::GET, &format!("/oauth2/token?{query}"), Some(&basic(identity)), None).await.status.as_u16()
    };
    assert_eq!(ask(format!("service={host}&scope=repository:a:pull"), PULLER).await, 200);
    assert_eq!(ask(format!("service={host}&scope=repository:a:pull&scope=repository:b:pull"), PULLER).await, 200);
    assert_eq!(ask(format!("service={host}&scope=repository:a:pull"), ("puller", "wrong")).await, 401);
    assert_eq!(ask("service=other&scope=repository:a:pull".into(), PULLER).await, 400);
    assert_eq!(ask(format!("service={host}&scope=a:pull"), PULLER).await, 400);
    let refused = form(&acr, "/oauth2/token", &[("grant_type", "refresh_token"), ("service", &host), ("refresh_token", "x")]).await;
    assert_eq!(refused.status, 401);
    let anonymous =
        async || send(&acr, Method::GET, &format!("/oauth2/token?service={host}&scope=repository:tide/gate:pull,push"), None, None).await;
    assert_eq!(anonymous().await.status, 401);
    acr.switch(|switches| switches.anonymous_pull = true);
    let token = anonymous().await.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["access"][0]["actions"], json!(["pull"]));
}

#[tokio::test]
async fn a_password_does_without_a_token_and_a_refresh_token_is_one() {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    assert_eq!(get(&acr, &manifest_path(&digest), &basic(READER)).await.status, 200);
    assert_eq!(get(&acr, &manifest_path(&digest), &basic(PULLER)).await.status, 403);
    assert_eq!(get(&acr, &manifest_path(&digest), &basic(ONLOOKER)).await.status, 401, "the quarantine role alone is not enough");
    let refresh = acr.refresh_token("reader");
    let noughts = ("00000000-0000-0000-0000-000000000000", refresh.as_str());
    assert_eq!(get(&acr, &manifest_path(&digest), &basic(noughts)).await.status, 200);
    assert_eq!(get(&acr, &manifest_path(&digest), &bearer(&acr, noughts, "repository:tide/gate:pull").await).await.status, 200);
    acr.void_tokens();
    assert_eq!(get(&acr, &manifest_path(&digest), &basic(noughts)).await.status, 401);
}

#[tokio::test]
async fn the_keeper_gets_in_with_a_password_or_a_refresh_token() {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    let refresh = Credentials::RefreshToken { token: acr.refresh_token("reader") };
    for credentials in [Credentials::basic(READER.0, READER.1), refresh] {
        let seen = observe_by(&client(), &acr, &credentials, &digest).await.unwrap();
        assert_eq!(seen.facts.state, State::Quarantined);
    }
    assert_eq!(
        (acr.count("GET", "/oauth2/token"), acr.count("POST", "/oauth2/token")),
        (1, 1),
        "one token each, for attributes and manifest"
    );
}

#[tokio::test]
async fn attributes_that_want_a_scope_of_their_own_are_read_with_the_challenges() {
    let acr = StandIn::start();
    acr.switch(|switches| switches.metadata_scopes = true);
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    assert_eq!(state(&acr, READER, &digest).await, State::Released);
    let asked = acr.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/oauth2/token")).unwrap();
    assert!(token.path.contains("metadata_read") && token.path.contains("pull"), "{}", token.path);
    // A token that was come by for the manifest does not do; the next one does for both.
    acr.forget_asked();
    let client = client();
    let credentials = Credentials::basic(READER.0, READER.1);
    client.manifest(&super::endpoint(&acr), &credentials, REPOSITORY, &super::digest(&digest)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(observe_by(&client, &acr, &credentials, &digest).await.unwrap().facts.state, State::Released);
    }
    assert_eq!(acr.count("GET", "/oauth2/token"), 2);
}

#[tokio::test]
async fn a_token_that_is_void_is_renewed_once() {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    let client = client();
    let credentials = Credentials::basic(READER.0, READER.1);
    let look = async || observe_by(&client, &acr, &credentials, &digest).await.map(|seen| seen.facts.state);
    assert_eq!(look().await, Ok(State::Released));
    assert_eq!(look().await, Ok(State::Released));
    assert_eq!(acr.count("GET", "/oauth2/token"), 1);
    acr.void_tokens();
    assert_eq!(look().await, Ok(State::Released));
    assert_eq!(acr.count("GET", "/oauth2/token"), 2);
    acr.change_password(READER.0, "another");
    assert_eq!(look().await, Ok(State::Released), "until the token is over");
    acr.void_tokens();
    assert_eq!(look().await, Err(Failure::Unauthorized(format!("the token server {} refuses (401)", acr.host()))));
}

#[tokio::test]
async fn tokens_that_are_over_when_they_come_open_nothing() {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    acr.switch(|switches| switches.token_life = Duration::ZERO);
    let told = "authentication required, visit https://aka.ms/acr/authorization for more information.";
    assert_eq!(observe(&acr, READER, &digest).await, Err(Failure::Forbidden(told.into())));
}

#[tokio::test]
async fn whoever_may_not_pull_learns_nothing() {
    let acr = StandIn::start();
    let digest = acr.push(REPOSITORY, "1", image("one"));
    acr.pass(&digest);
    let told = "authentication required, visit https://aka.ms/acr/authorization for more information.";
    assert_eq!(observe(&acr, ONLOOKER, &digest).await, Err(Failure::Forbidden(told.into())));
    let anonymous = observe_by(&client(), &acr, &Credentials::Anonymous, &digest).await;
    assert_eq!(anonymous, Err(Failure::Unauthorized(format!("the token server {} refuses (401)", acr.host()))));
    acr.switch(|switches| switches.anonymous_pull = true);
    let anonymous = observe_by(&client(), &acr, &Credentials::Anonymous, &digest).await.unwrap();
    assert_eq!(anonymous.facts.state, State::Released);
    assert_eq!(get(&acr, &attributes_path(&digest), &pulling(&acr, PULLER).await).await.status, 200);
}
