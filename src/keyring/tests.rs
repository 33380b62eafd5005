use super::*;
use k8s_openapi::ByteString;

fn secret(kind: &str, entries: &[(&str, &str)]) -> Secret {
    Secret {
        type_: Some(kind.to_owned()),
        data: Some(entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()),
        ..Secret::default()
    }
}

fn docker(auths: &str) -> Secret {
    secret("kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", &format!(r#"{{"auths":{auths}}}"#))])
}

/// A keyring whose users are its keys.
fn ring(keys: &[&str]) -> Keyring {
    let auths: BTreeMap<_, _> = keys.iter().map(|key| (*key, serde_json::json!({"username": key, "password": "p"}))).collect();
    let mut keyring = Keyring::default();
    keyring.add(&docker(&serde_json::to_string(&auths).unwrap()), Holder::Pod).unwrap();
    keyring
}

fn users(keyring: &Keyring, image: &str) -> Vec<String> {
    let user = |credentials| match credentials {
        Credentials::Basic { user, .. } => user,
        other => format!("{other:?}"),
    };
    keyring.lookup(image).into_iter().map(user).collect()
}

#[test]
fn a_key_is_for_the_images_that_the_kubelet_takes_it_for() {
    let cases: &[(&str, &str, bool)] = &[
        // schemes and the paths of old APIs fall away
        ("https://reg.example", "reg.example/app", true),
        ("http://reg.example/", "reg.example/app", true),
        ("https://reg.example/v1/", "reg.example/app", true),
        ("reg.example/v2/", "reg.example/app", true),
        ("reg.example/v2/team", "reg.example/team/app", true),
        ("reg.example/v2/team", "reg.example/other/app", false),
        // `/v1` alone is a path
        ("reg.example/v1", "reg.example/app", false),
        ("reg.example/v1", "reg.example/v1/app", true),
        ("HTTPS://reg.example", "reg.example/app", false),
        // the host is compared as written
        ("Reg.example", "reg.example/app", false),
        // ports are equal or both absent
        ("reg.example:5000", "reg.example:5000/app", true),
        ("reg.example:5000", "reg.example/app", false),
        ("reg.example", "reg.example:5000/app", false),
        ("*.example:5000", "reg.example:5000/app", true),
        ("reg.example:*", "reg.example:5000/app", false),
        ("[fd00::1]:5000", "[fd00::1]:5000/app", true),
        ("[fd00::1]:5000", "[fd00::2]:5000/app", false),
        // a glob for each label, and as many labels
        ("*.azurecr.io", "lazdemo.azurecr.io/x", true),
        ("*.azurecr.io", "azurecr.io/x", false),
        ("*.azurecr.io", "a.b.azurecr.io/x", false),
        ("*.*.example.io", "a.b.example.io/x", true),
        ("*.io", "a.b.io/x", false),
        ("laz*.azurecr.io", "lazdemo.azurecr.io/x", true),
        ("laz*o.azurecr.io", "lazdemo.azurecr.io/x", true),
        ("laz*z.azurecr.io", "lazdemo.azurecr.io/x", false),
        ("*laz*demo*.azurecr.io", "lazdemo.azurecr.io/x", true),
        ("reg[0-9].example", "reg7.example/x", true),
        ("reg[^0-9].example", "reg7.example/x", false),
        ("reg[79].example", "reg9.example/x", true),
        ("reg[.example", "reg[.example/x", false),
        ("reg[].example", "reg].example/x", false),
        ("reg[9-].example", "reg9.example/x", false),
        // `?` begins a query
        ("re?.example", "reg.example/x", false),
        ("reg.example?x=1", "reg.example/x", true),
        // the path is a plain prefix
        ("reg.example:8443/team", "reg.example:8443/team/app", true),
        ("reg.example:8443/team", "reg.example:8443/teamster/app", true),
        ("reg.example/team/", "reg.example/teamster/app", false),
        ("reg.example/*", "reg.example/team/app", false),
        // what Go's URL parser refuses is ignored
        ("reg.example:port", "reg.example/x", false),
        ("reg example", "reg example/x", false),
        ("user@reg.example", "reg.example/x", true),
        ("", "reg.example/x", false),
    ];
    for (key, image, expected) in cases {
        assert_eq!(!users(&ring(&[key]), image).is_empty(), *expected, "{key} for {image}");
    }
}

#[test]
fn all_that_match_are_tried_the_longer_paths_first() {
    let keyring = ring(&["reg.example", "reg.example/team", "reg.example/team/app", "*.example", "other.example"]);
    assert_eq!(users(&keyring, "reg.example/team/app"), ["reg.example/team/app", "reg.example/team", "reg.example", "*.example"]);
    assert_eq!(users(&keyring, "reg.example/x"), ["reg.example", "*.example"]);
}

#[test]
fn one_key_from_several_secrets_keeps_their_order() {
    let mut keyring = Keyring::default();
    for user in ["first", "second"] {
        let auths = format!(
            r#"{{"https://reg.example/v1/":{{"username":"{user}","password":"p"}},"reg.example":{{"username":"{user}-2","password":"p"}}}}"#
        );
        keyring.add(&docker(&auths), Holder::Pod).unwrap();
    }
    assert_eq!(users(&keyring, "reg.example/x"), ["first", "first-2", "second", "second-2"]);
}

#[test]
fn docker_hub_is_looked_for_under_its_old_name() {
    let old = ring(&["https://index.docker.io/v1/"]);
    for image in ["docker.io/library/nginx", "index.docker.io/library/nginx", "nginx", "library/nginx"] {
        assert_eq!(users(&old, image), ["https://index.docker.io/v1/"], "{image}");
    }
    for image in ["quay.io/nginx", "localhost:5000/nginx", "/nginx", ""] {
        assert!(users(&old, image).is_empty(), "{image}");
    }
    // Only when nothing else matches.
    let both = ring(&["https://index.docker.io/v1/", "docker.io"]);
    assert_eq!(users(&both, "docker.io/library/nginx"), ["docker.io"]);
    // And only under exactly this key.
    assert!(users(&ring(&["index.docker.io/library"]), "docker.io/library/nginx").is_empty());
}

#[test]
fn entries_are_read_as_docker_writes_them() {
    let basic = |user: &str, password: &str| Credentials::basic(user, password);
    let cases = [
        (r#"{"username":"robot","password":"s3a:gull","email":"x@example.com"}"#, basic("robot", "s3a:gull")),
        // the first colon parts user and password, and `auth` overrides
        (r#"{"username":"no","password":"no","auth":"cm9ib3Q6czNhOmd1bGw="}"#, basic("robot", "s3a:gull")),
        (r#"{"auth":"cm9ib3Q6czNhOmd1bGw"}"#, basic("robot", "s3a:gull")),
        (r#"{"auth":"cm9ib3Q6czNh\nOmd1bGw=\n"}"#, basic("robot", "s3a:gull")),
        (r#"{"auth":"","username":"u","password":"p"}"#, basic("u", "p")),
        (r#"{"username":"00000000-0000-0000-0000-000000000000","password":"jwt"}"#, Credentials::RefreshToken { token: "jwt".into() }),
        (r#"{"username":null,"password":null}"#, Credentials::Anonymous),
        ("null", Credentials::Anonymous),
        // the kubelet does not know identity tokens
        (r#"{"auth":"dTpw","identitytoken":"jwt"}"#, basic("u", "p")),
    ];
    for (entry, expected) in cases {
        let mut keyring = Keyring::default();
        keyring.add(&docker(&format!(r#"{{"reg.example":{entry}}}"#)), Holder::Pod).unwrap();
        assert_eq!(keyring.lookup("reg.example/x"), [expected], "{entry}");
    }
    let mut legacy = Keyring::default();
    legacy.add(&secret("kubernetes.io/dockercfg", &[(".dockercfg", r#"{"reg.example":{"auth":"dTpw"}}"#)]), Holder::Pod).unwrap();
    assert_eq!(legacy.lookup("reg.example/x"), [basic("u", "p")]);
}

#[test]
fn what_is_no_pull_secret_adds_nothing_and_what_is_broken_says_where() {
    let mut keyring = Keyring::default();
    for ignored in [
        secret("Opaque", &[(".dockerconfigjson", "{}")]),
        secret("kubernetes.io/dockerconfigjson", &[("other", "{}")]),
        secret("kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", "")]),
        secret("kubernetes.io/basic-auth", &[("username", "u"), ("password", "p")]),
        docker("null"),
        docker("{}"),
    ] {
        assert_eq!(keyring.add(&ignored, Holder::Pod), Ok(()));
    }
    let place = |column| KeyringError::Json { key: ".dockerconfigjson", line: 1, column };
    let broken = [
        (docker("{"), place(11)),
        (docker(r#"{"reg.example":"hunter2"}"#), place(33)),
        (docker(r#"{"a":{"auth":"dTpw"},"reg.example":{"auth":"%%"}}"#), KeyringError::Auth("reg.example".into())),
        (docker(r#"{"reg.example":{"auth":"aHVudGVyMg=="}}"#), KeyringError::Auth("reg.example".into())),
        (docker(&format!(r#"{{"reg.example":{{"password":"{}"}}}}"#, "x".repeat(MOST_BYTES))), KeyringError::TooLarge),
    ];
    for (secret, error) in broken {
        let found = keyring.add(&secret, Holder::Pod).unwrap_err();
        assert_eq!(found, error);
        assert!(!found.to_string().contains("hunter2"), "{found}");
    }
    let many: Vec<_> = (0..=MOST_ENTRIES).map(|at| format!(r#""r{at}.example":{{}}"#)).collect();
    assert_eq!(keyring.add(&docker(&format!("{{{}}}", many.join(","))), Holder::Pod), Err(KeyringError::TooLarge));
    assert!(keyring.is_empty(), "a Secret counts whole or not at all");
}

#[test]
fn a_registrys_own_secret_may_also_be_basic_auth_or_hold_an_identity_token() {
    let own = |secret: &Secret, host: &str| Keyring::of_registry(secret, host);
    let basic = secret("kubernetes.io/basic-auth", &[("username", "u"), ("password", "p")]);
    assert_eq!(own(&basic, "any.example:5000"), Ok(Some(Credentials::basic("u", "p"))));
    let token = docker(
        r#"{"reg.example":{"auth":"dTpw","identitytoken":"jwt"},"https://index.docker.io/v1/":{"auth":"aDpw"},"part.example/team":{"auth":"dTpw"}}"#,
    );
    assert_eq!(own(&token, "reg.example"), Ok(Some(Credentials::RefreshToken { token: "jwt".into() })));
    assert_eq!(own(&token, "docker.io"), Ok(Some(Credentials::basic("h", "p"))));
    assert_eq!(own(&token, "part.example"), Ok(Some(Credentials::basic("u", "p"))));
    assert_eq!(own(&token, "other.example"), Ok(None));
    assert_eq!(own(&secret("Opaque", &[]), "reg.example"), Err(KeyringError::Type("Opaque".into())));
    assert_eq!(own(&secret("kubernetes.io/basic-auth", &[("username", "u")]), "reg.example"), Err(KeyringError::Missing("password")));
    assert_eq!(own(&secret("kubernetes.io/dockerconfigjson", &[]), "reg.example"), Err(KeyringError::Missing(".dockerconfigjson")));
}
