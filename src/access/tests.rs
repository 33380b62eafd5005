use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{QuarantinePolicy, Registry, Waiver},
    image::Reference,
    index::Index,
    judgement::{self, Answer, Answered, FieldPath, Judgement, Scope, Setting},
    verdict::Basis,
};

const DIGEST: &str = "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1";

/// One policy, one Registry of `registry.corp`, and perhaps a waiver.
fn index(require: &Value, registry: &Value, waiver: Option<&Value>) -> Index {
    let object = |kind: &str, spec: &Value| json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": kind, "metadata": { "name": "x" }, "spec": spec });
    let mut index = Index::default();
    let knobs = json!({ "pending": "Allow", "registryUnavailable": "Allow", "unauthorized": "Allow" });
    let policy = object("QuarantinePolicy", &json!({ "require": require, "whenUnknown": knobs }));
    index.apply_policy(&serde_json::from_value::<QuarantinePolicy>(policy).unwrap());
    let mut spec = registry.clone();
    spec["hosts"] = json!(["registry.corp", "registry.corp:8443", "[fd00::5]:5000"]);
    index.apply_registry(&serde_json::from_value::<Registry>(object("Registry", &spec)).unwrap());
    if let Some(waiver) = waiver {
        index.apply_waiver(&serde_json::from_value::<Waiver>(object("Waiver", waiver)).unwrap());
    }
    assert!(index.unreadable().is_empty(), "{:?}", index.unreadable());
    index
}

/// What is said of an image in a namespace by its name; none where more has to be known.
fn by_name(index: &Index, namespace: &str, image: &str) -> Option<Judgement> {
    let (rules, labels) = (index.rules(), BTreeMap::new());
    let setting = Setting::new(&rules, Scope::Enforce, namespace, &labels, Timestamp::UNIX_EPOCH);
    let spoken = setting.spoken(FieldPath::Text("image"), image);
    spoken.wants().is_none().then(|| judgement::conclude(&setting.consider_all(vec![spoken], |_| None)))
}

fn off() -> Value {
    json!({ "released": "Off" })
}

#[track_caller]
fn refuses(index: &Index, image: &str, sentence: &str) {
    let judgement = by_name(index, "team", image).unwrap_or_else(|| panic!("{image} is not decided by name"));
    let Answer::Refuse(message) = judgement.answer else { panic!("{image}: {judgement:?}") };
    assert!(message.contains(sentence), "{image}: {sentence} is not in: {message}");
    assert_eq!(judgement.tallies[0].0.2, Basis::NothingRequired, "no registry was asked");
}

#[track_caller]
fn admits(index: &Index, image: &str) {
    let judgement = by_name(index, "team", image).unwrap_or_else(|| panic!("{image} is not decided by name"));
    assert_eq!(judgement.answer, Answer::Admit, "{image}");
}

#[test]
fn what_a_registry_excludes_is_refused_by_name_whatever_else_is_asked() {
    let excluded = json!({ "exclude": ["mirror/**", "team/old-*", "plain"] });
    for require in [off(), json!({}), json!({ "released": "Warn", "unmanaged": "Allow" })] {
        let index = index(&require, &excluded, None);
        for image in [
            "registry.corp/mirror/x",
            "registry.corp/mirror/a/b:1",
            "registry.corp:8443/team/old-app",
            "registry.corp/plain:2",
            "[fd00::5]:5000/mirror/x",
        ] {
            refuses(&index, image, "the Registry object of this registry excludes the repository");
            refuses(&index, &format!("{}@{DIGEST}", image.trim_end_matches(":1").trim_end_matches(":2")), "excludes the repository");
        }
    }
    let index = index(&off(), &excluded, None);
    for image in
        ["registry.corp/mirror", "registry.corp/team/app", "registry.corp/plain/x", "registry.corp/team/old/app", "other.corp/mirror/x"]
    {
        admits(&index, image);
    }
}

/// Each of these is another spelling of `registry.corp/mirror/x`, or would be to somebody. None is admitted.
#[test]
fn no_spelling_gets_round_an_excluded_path() {
    let index = index(&off(), &json!({ "exclude": ["mirror/**"] }), None);
    let pinned = format!("registry.corp/mirror/x:1@{DIGEST}");
    for image in [
        "REGISTRY.corp/mirror/x",
        "Registry.Corp/mirror/x:1",
        "registry.corp:443/mirror/x",
        "registry.corp./mirror/x",
        "registry.corp/Mirror/x",
        "registry.corp//mirror/x",
        "registry.corp/mirror//x",
        "registry.corp/./mirror/x",
        "registry.corp/team/../mirror/x",
        "registry.corp/mirror/x/",
        "registry.corp/%6dirror/x",
        "registry.corp/mirror%2fx",
        "registry.corp/mirror\u{ff0f}x",
        "registry.corp/mirror/x ",
        "https://registry.corp/mirror/x",
        "user@registry.corp/mirror/x",
        "registry.corp:08443/mirror/x",
        "[FD00::5]:5000/mirror/x",
        "[fd00:0::5]:5000/mirror/x",
        "[fd00::5]:05000/mirror/x",
        &pinned,
    ] {
        let judgement = by_name(&index, "team", image).unwrap();
        assert!(matches!(judgement.answer, Answer::Refuse(_)), "{image}: {judgement:?}");
    }
}

#[test]
fn an_image_from_elsewhere_than_is_allowed_is_refused_by_name() {
    let allowed = ["registry.corp/team/**", "docker.io/library/*", "*.mirror.corp/**", "[fd00::5]:5000/a", "registry.corp:8443/one"];
    let index = index(&json!({ "released": "Off", "sources": { "allowed": allowed } }), &json!({}), None);
    for image in [
        "registry.corp/team/app",
        "registry.corp:443/team/app:1",
        "REGISTRY.CORP/team/a/b",
        "nginx",
        "library/nginx",
        "docker.io/nginx",
        "index.docker.io/library/nginx:1",
        "eu.mirror.corp/x",
        "[fd00::5]:5000/a:2",
        "registry.corp:8443/one",
    ] {
        admits(&index, image);
    }
    for image in [
        "registry.corp/team",
        "registry.corp/other/app",
        "registry.corp:8443/team/app",
        "registry.corp:5000/team/app",
        "registry.corp.evil.example/team/app",
        "evil.example/registry.corp/team/app",
        "docker.io/someone/nginx",
        "someone/nginx",
        "mirror.corp/x",
        "evilmirror.corp/x",
        "registry.corp/teams/app",
        &format!("registry.corp/other/app:team@{DIGEST}"),
    ] {
        refuses(
            &index,
            image,
            "this policy admits images from registry.corp/team/**, docker.io/library/*, *.mirror.corp/**, [fd00::5]:5000/a and 1 more",
        );
    }
    for image in ["registry.corp/team/../other/app", "registry.corp/team//app", "registry.corp/team/%2e%2e/other", "registry.corp/Team/app"]
    {
        refuses_however(&index, image);
    }
}

#[track_caller]
fn refuses_however(index: &Index, image: &str) {
    let judgement = by_name(index, "team", image).unwrap();
    assert!(matches!(judgement.answer, Answer::Refuse(_)), "{image}: {judgement:?}");
}

#[test]
fn a_name_without_its_registry_is_refused_or_warned_of_by_choice() {
    let with = |level: &str| index(&json!({ "released": "Off", "sources": { "unqualified": level } }), &json!({}), None);
    let whole =
        ["docker.io/nginx", "docker.io/library/nginx", "index.docker.io/nginx", "registry.corp/x", "localhost/x", "registry.corp:8443/x"];
    for image in ["nginx", "nginx:1", "library/nginx", "team/app", "a/b/c:2", &format!("nginx@{DIGEST}")] {
        refuses(
            &with("Deny"),
            image,
            "the image is named without its registry, and each node decides for itself which one that is: write docker.io/",
        );
        let warned = by_name(&with("Warn"), "team", image).unwrap();
        assert_eq!((warned.answer, warned.tallies[0].0.0), (Answer::Admit, Answered::Warn), "{image}");
        assert!(warned.warnings[0].contains("named without its registry; write docker.io/"), "{:?}", warned.warnings);
        admits(&with("Off"), image);
    }
    for image in whole {
        admits(&with("Deny"), image);
        assert_eq!(by_name(&with("Warn"), "team", image).unwrap().warnings, Vec::<String>::new(), "{image}");
    }
}

#[test]
fn where_an_image_may_come_from_can_be_waived_and_an_exclusion_cannot() {
    let require = json!({ "released": "Off", "sources": { "allowed": ["registry.corp/team/**"], "unqualified": "Deny" } });
    let waiver = json!({
        "requirements": ["Sources"], "images": ["docker.io/library/nginx", "registry.corp/mirror/**"], "namespaces": ["team"],
        "reason": "r", "by": "ann", "expires": "2100-01-01T00:00:00Z",
    });
    let index = index(&require, &json!({ "exclude": ["mirror/**"] }), Some(&waiver));
    admits(&index, "nginx");
    refuses(&index, "redis", "named without its registry");
    refuses(&index, "registry.corp/mirror/x", "excludes the repository");
    let elsewhere = by_name(&index, "other", "nginx").unwrap();
    assert!(matches!(elsewhere.answer, Answer::Refuse(_)), "{elsewhere:?}");
}

#[test]
fn what_cannot_be_read_keeps_the_last_readable_form() {
    let mut index = index(&off(), &json!({ "exclude": ["mirror/**"] }), None);
    let spec = json!({ "hosts": ["registry.corp"], "exclude": ["mirror/**/"] });
    let broken = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": "x" }, "spec": spec });
    index.apply_registry(&serde_json::from_value::<Registry>(broken).unwrap());
    let why: Vec<String> = index.unreadable().values().map(ToString::to_string).collect();
    assert_eq!(why, ["spec.exclude: the pattern has a slash too many, at its start, at its end or doubled: leave it out"]);
    refuses(&index, "registry.corp/mirror/x", "excludes the repository");
}

fn said(index: &Index, labels: &[(&str, &str)], (namespace, account): (&str, &str), image: &str) -> Demand {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let (rules, image) = (index.rules(), Reference::parse(image).unwrap());
    let setting = Setting::new(&rules, Scope::Enforce, namespace, &labels, Timestamp::UNIX_EPOCH);
    setting.demand(rules.registry_of(&image), &image, account)
}

fn access() -> Value {
    json!({ "exclude": ["library/old/**"], "access": [
        { "paths": ["library/**"], "anonymous": true },
        { "paths": ["coolteam/secret", "coolteam/secret/**"], "allow": { "serviceAccounts": [{ "namespace": "coolteam", "name": "vault" }] } },
        { "paths": ["coolteam/**"], "allow": { "namespaces": ["coolteam", "coolteam-test"] } },
        { "paths": ["labelled/**"], "allow": { "namespaceSelector": { "matchLabels": { "tier": "gold" } } } },
        { "paths": ["proven/**"], "prove": "PullSecret" },
        { "paths": ["both/**"], "allow": { "namespaces": ["coolteam"] }, "prove": "PullSecret" },
    ] })
}

#[test]
fn the_first_rule_that_speaks_of_a_path_counts_and_without_one_nobody_may() {
    use Demand::{Anonymous, Forbidden, Impossible, Nothing, PullSecret};
    let index = index(&off(), &access(), None);
    let (team, vault, test, other) = (("coolteam", "default"), ("coolteam", "vault"), ("coolteam-test", "vault"), ("other", "default"));
    for (path, by_team, by_vault, by_test, by_other) in [
        ("library/base", Anonymous, Anonymous, Anonymous, Anonymous),
        ("library/old/base", Impossible, Impossible, Impossible, Impossible),
        ("library", Forbidden, Forbidden, Forbidden, Forbidden),
        ("coolteam/app", Nothing, Nothing, Nothing, Forbidden),
        ("coolteam/a/b/c", Nothing, Nothing, Nothing, Forbidden),
        ("coolteam/secret", Forbidden, Nothing, Forbidden, Forbidden),
        ("coolteam/secret/x", Forbidden, Nothing, Forbidden, Forbidden),
        ("coolteam", Forbidden, Forbidden, Forbidden, Forbidden),
        ("coolteam-test/app", Forbidden, Forbidden, Forbidden, Forbidden),
        ("labelled/app", Forbidden, Forbidden, Forbidden, Forbidden),
        ("proven/app", PullSecret, PullSecret, PullSecret, PullSecret),
        ("both/app", PullSecret, PullSecret, Forbidden, Forbidden),
        ("unnamed/app", Forbidden, Forbidden, Forbidden, Forbidden),
    ] {
        for host in ["registry.corp", "registry.corp:8443", "[fd00::5]:5000"] {
            for (who, expected) in [(team, by_team), (vault, by_vault), (test, by_test), (other, by_other)] {
                assert_eq!(said(&index, &[], who, &format!("{host}/{path}:1")), expected, "{path} by {who:?}");
                assert_eq!(said(&index, &[], who, &format!("{host}/{path}:1@{DIGEST}")), expected, "{path} by {who:?}");
            }
        }
    }
    assert_eq!(said(&index, &[("tier", "gold")], other, "registry.corp/labelled/app"), Nothing);
    assert_eq!(said(&index, &[("tier", "silver")], team, "registry.corp/labelled/app"), Forbidden);
    assert_eq!(said(&index, &[("tier", "gold")], other, "registry.corp/coolteam/app"), Forbidden);
    assert_eq!(said(&index, &[], other, "elsewhere.corp/coolteam/app"), Nothing, "another registry");
}

#[test]
fn a_registry_without_rules_asks_nothing() {
    let index = index(&off(), &json!({}), None);
    assert_eq!(said(&index, &[], ("other", "default"), "registry.corp/coolteam/app"), Demand::Nothing);
}

#[test]
fn where_the_registry_keeps_the_flag_nobody_asks_it_without_credentials() {
    let mut spec = access();
    spec["quarantine"] = json!({ "provider": "AzureContainerRegistry" });
    let index = index(&off(), &spec, None);
    assert_eq!(said(&index, &[], ("other", "default"), "registry.corp/library/base"), Demand::Nothing);
}

/// In every spelling that a node may take for the same image, or nobody may take for any.
#[test]
fn no_spelling_gets_round_a_rule() {
    let index = index(&off(), &access(), None);
    for image in [
        "registry.corp/coolteam/app",
        "REGISTRY.corp/coolteam/app:1",
        "registry.corp:443/coolteam/app",
        "registry.corp./coolteam/app",
        "registry.corp/Coolteam/app",
        "registry.corp//coolteam/app",
        "registry.corp/library/../coolteam/app",
        "registry.corp/library//../coolteam/app",
        "registry.corp/library/./app/../../coolteam/app",
        "registry.corp/library%2f..%2fcoolteam/app",
        "registry.corp/coolteam%2fapp",
        "registry.corp/library:x/coolteam/app",
        "[FD00::5]:5000/coolteam/app",
        "[fd00:0:0::5]:5000/coolteam/app",
        "[fd00::5]:05000/coolteam/app",
        &format!("registry.corp/coolteam/app:1@{DIGEST}"),
        &format!("registry.corp/coolteam/app@{DIGEST}"),
    ] {
        let judgement = by_name(&index, "other", image).unwrap();
        assert!(matches!(judgement.answer, Answer::Refuse(_)), "{image}: {judgement:?}");
    }
}

#[test]
fn a_rule_that_does_not_say_for_whom_it_is_is_not_read() {
    for (rule, why) in [
        (json!({ "paths": ["a"] }), "say for whom a rule is: either anonymous: true, or allow, prove or both"),
        (
            json!({ "paths": ["a"], "anonymous": true, "prove": "PullSecret" }),
            "say for whom a rule is: either anonymous: true, or allow, prove or both",
        ),
        (json!({ "paths": ["a"], "allow": { "namespaceSelector": {} } }), "an empty namespaceSelector allows nobody: leave it out"),
        (
            json!({ "paths": ["a"], "allow": { "namespaceSelector": { "matchLabels": { "a": "!" } } } }),
            "namespaceSelector: `!` is no label value",
        ),
    ] {
        let rule: api::AccessRule = serde_json::from_value(rule).unwrap();
        assert_eq!(AccessRules::read(&[rule]).unwrap_err().to_string(), format!("spec.access: {why}"));
    }
    // One that names nobody lets nobody in.
    let nobody = serde_json::from_value(json!({ "paths": ["**"], "allow": {} })).unwrap();
    let who = Who { namespace: "", labels: &BTreeMap::new(), service_account: "" };
    assert_eq!(AccessRules::read(&[nobody]).unwrap().demand("a", &who), Demand::Forbidden);
}
