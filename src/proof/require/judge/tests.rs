//! Every shape of an index and of what is attached to it and to its images.

use serde_json::{Value, json};

use super::*;
use crate::{
    api,
    image::Digest,
    proof::{Asked, NoExceptions, Platforms, Roots},
};

const NOW: &str = "2026-06-01T00:00:00Z";

fn key(kind: &str) -> String {
    let path = format!("{}/tests/fixtures/proof/keys/{kind}.pub.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// What is asked of `build` (P-256) and `release` (Ed25519), for nodes of these platforms; of none, unknown ones.
fn proof(require: &Value, nodes: &[&str]) -> Proof {
    let authority = |name: &str, kind: &str| api::Authority { name: name.to_owned(), public_key: Some(key(kind)), keyless: None };
    let require: api::Require = serde_json::from_value(require.clone()).unwrap();
    let asked = Asked {
        authorities: &[authority("build", "ecdsa-p256"), authority("release", "ed25519")],
        signatures: require.signatures.as_ref(),
        sbom: require.sbom.as_ref(),
        vulnerabilities: require.vulnerabilities.as_ref(),
        life: require.end_of_life.as_ref(),
    };
    Proof::read(&asked).unwrap().bound(&Roots::default(), &Platforms::of(nodes.iter().copied().map(Some)))
}

fn item(proof: &Proof, kind: &str, by: usize, about: &[&str]) -> EvidenceItem {
    let item = json!({ "kind": kind, "key": &*proof.authorities[by].id, "digest": Digest::of(b"x").to_string(), "about": about });
    serde_json::from_value(item).unwrap()
}

fn report(proof: &Proof, about: &[&str], day: &str, high: u32) -> EvidenceItem {
    let finished = format!("{day}T00:00:00Z");
    let counts = if high > 0 { json!({ "high": { "all": high } }) } else { json!({}) };
    let named: Vec<&str> = if high > 0 { vec!["CVE-2026-0001 High"] } else { Vec::new() };
    let summary = json!({ "scanner": "s", "finishedAt": finished, "counts": counts, "named": named });
    EvidenceItem {
        at: Some(finished.parse().unwrap()),
        report: Some(serde_json::from_value(summary).unwrap()),
        ..item(proof, "Vulnerabilities", 0, about)
    }
}

/// What was found, of an index where images are named.
fn evidence(inside: &[&str], platforms: &[&str], items: &[EvidenceItem]) -> Evidence {
    let platforms: Vec<Value> = platforms.iter().map(|platform| json!({ "platform": platform })).collect();
    serde_json::from_value(json!({ "lookedAt": NOW, "items": items, "lookedInside": inside, "platforms": platforms })).unwrap()
}

#[track_caller]
fn why(proof: &Proof, evidence: &Evidence) -> String {
    match proof.judge(evidence, &NoExceptions, NOW.parse().unwrap()) {
        Ok(()) => String::new(),
        Err(unproven) if unproven.unlooked => "unlooked".to_owned(),
        Err(unproven) => unproven.why,
    }
}

const BOTH: [&str; 2] = ["linux/amd64", "linux/arm64"];

#[test]
fn an_index_is_signed_by_itself_or_by_each_of_its_images_that_a_node_may_run() {
    let wanted = json!({ "signatures": { "by": ["build"] } });
    let of = |nodes: &[&str]| proof(&wanted, nodes);
    let any = of(&[]);
    let (build, other) = (|about: &[&str]| item(&any, "Signature", 0, about), |about: &[&str]| item(&any, "Signature", 1, about));
    let (amd64, arm64) = ("linux/amd64", "linux/arm64");
    let cases: [(&str, &[&str], Evidence, &str); 16] = [
        ("an image", &[], evidence(&["*"], &[], &[build(&[])]), ""),
        ("an image that is not", &[], evidence(&["*"], &[], &[]), "it is not signed by build (nothing that is attached"),
        ("the index, and nobody looked inside", &BOTH, evidence(&[], &[], &[build(&[])]), ""),
        ("the index, and none of its images", &BOTH, evidence(&BOTH, &BOTH, &[build(&[])]), ""),
        ("nobody looked inside", &BOTH, evidence(&[], &[], &[other(&[])]), "unlooked"),
        ("each image", &BOTH, evidence(&BOTH, &BOTH, &[build(&BOTH)]), ""),
        (
            "each image, one by another",
            &BOTH,
            evidence(&BOTH, &BOTH, &[build(&[amd64]), other(&[arm64])]),
            "linux/arm64: it is not signed by build; ",
        ),
        (
            "one image",
            &BOTH,
            evidence(&BOTH, &BOTH, &[build(&[amd64])]),
            "linux/arm64: it is not signed by build (nothing that is attached to it",
        ),
        ("no image", &BOTH, evidence(&BOTH, &BOTH, &[]), "linux/amd64, linux/arm64: it is not signed by build (nothing"),
        ("the one for the nodes", &[amd64], evidence(&["*"], &BOTH, &[build(&[amd64])]), ""),
        ("the one that is for no node", &[amd64], evidence(&["*"], &BOTH, &[build(&[arm64])]), "linux/amd64: it is not signed"),
        ("a platform has come", &BOTH, evidence(&[amd64], &[amd64], &[build(&[amd64])]), "unlooked"),
        ("platforms are known no more", &[], evidence(&BOTH, &BOTH, &[build(&BOTH)]), "unlooked"),
        (
            "nothing for the nodes",
            &[amd64],
            evidence(&[amd64], &[], &[]),
            "sign and attach what is missing; none of the images of the index is for a platform of this cluster's nodes",
        ),
        (
            "a second image of the platform",
            &[amd64],
            evidence(&[amd64], &[amd64, "linux/amd64+2"], &[build(&[amd64])]),
            "linux/amd64+2: it is not signed",
        ),
        ("one without a platform", &[amd64], evidence(&[amd64], &[amd64, "any"], &[build(&[amd64])]), "any: it is not signed"),
    ];
    for (name, nodes, found, expected) in cases {
        let why = why(&of(nodes), &found);
        assert!(if expected.is_empty() { why.is_empty() } else { why.contains(expected) }, "{name}: {why}");
    }
}

/// Signatures of an index and of its image do not add up, nor do requirements that are met in different places hinder each other.
#[test]
fn each_requirement_is_met_by_itself_and_by_one_of_both() {
    let two = proof(&json!({ "signatures": { "threshold": 2 } }), &BOTH);
    let split = evidence(&BOTH, &BOTH, &[item(&two, "Signature", 0, &[]), item(&two, "Signature", 1, &BOTH)]);
    assert!(
        why(&two, &split).starts_with("linux/amd64, linux/arm64: it is signed by 1 of the 2 that are wanted; not by build"),
        "{}",
        why(&two, &split)
    );
    let all =
        proof(&json!({ "signatures": { "by": ["build"] }, "sbom": { "by": ["build"] }, "vulnerabilities": { "by": ["build"] } }), &BOTH);
    let mut items = vec![item(&all, "Signature", 0, &[]), item(&all, "SBOM", 0, &BOTH), report(&all, &[], "2026-05-01", 0)];
    assert_eq!(why(&all, &evidence(&BOTH, &BOTH, &items)), "");
    items[1].about = vec!["linux/arm64".to_owned()];
    assert!(why(&all, &evidence(&BOTH, &BOTH, &items)).starts_with("linux/amd64: it has no SBOM signed by build (nothing"));
}

#[test]
fn of_reports_about_an_index_and_an_image_the_latest_counts() {
    let wanted = proof(&json!({ "vulnerabilities": { "by": ["build"], "vexBy": ["release"] } }), &BOTH);
    let found = |items: &[EvidenceItem]| why(&wanted, &evidence(&BOTH, &BOTH, items));
    let (early, late) = ("2026-04-01", "2026-05-01");
    assert_eq!(found(&[report(&wanted, &[], early, 0)]), "");
    assert_eq!(found(&[report(&wanted, &BOTH, early, 0)]), "");
    assert_eq!(found(&[report(&wanted, &BOTH, late, 0), report(&wanted, &[], early, 1)]), "", "each image was scanned again since");
    let bad = "its vulnerability report does not do: 1 of severity High";
    let why_bad = found(&[report(&wanted, &BOTH, early, 0), report(&wanted, &[], late, 1)]);
    assert!(why_bad.starts_with(&format!("linux/amd64, linux/arm64: {bad}")), "{why_bad}");
    let one = [report(&wanted, &["linux/amd64"], early, 0), report(&wanted, &["linux/arm64"], early, 1)];
    assert!(found(&one).starts_with(&format!("linux/arm64: {bad}")), "{}", found(&one));
    let vex = |about: &[&str]| EvidenceItem { not_affected: vec!["CVE-2026-0001".to_owned()], ..item(&wanted, "VEX", 1, about) };
    for about in [&[][..], &["linux/arm64"]] {
        assert_eq!(found(&[one.to_vec(), vec![vex(about)]].concat()), "", "{about:?}");
    }
    assert!(found(&[one.to_vec(), vec![vex(&["linux/amd64"])]].concat()).contains(bad), "what is said of another image");

    // What was not read may be a later report, of the image or of the index.
    let mut unread = evidence(&BOTH, &BOTH, &[report(&wanted, &BOTH, early, 0)]);
    (unread.platforms[1].more, unread.platforms[1].unproven) = (true, "it is too large".to_owned());
    assert!(
        why(&wanted, &unread).starts_with("linux/arm64: not everything that is attached to it could be read"),
        "{}",
        why(&wanted, &unread)
    );
    let mut unread = evidence(&BOTH, &BOTH, &[report(&wanted, &BOTH, early, 0)]);
    (unread.more, unread.unproven) = (true, "it is too large".to_owned());
    assert!(why(&wanted, &unread).starts_with("linux/amd64, linux/arm64: not everything"));
}

#[test]
fn the_life_of_an_index_ends_when_it_is_said_of_it_or_else_of_an_image() {
    let wanted = proof(&json!({ "endOfLife": {} }), &BOTH);
    let ended = |index: Option<&str>, image: Option<&str>| {
        let mut found = evidence(&BOTH, &BOTH, &[]);
        found.end_of_life = index.map(|at| at.parse().unwrap());
        found.platforms[1].end_of_life = image.map(|at| at.parse().unwrap());
        why(&wanted, &found)
    };
    let (over, goes_on) = (Some("2026-01-01T00:00:00Z"), Some("2027-01-01T00:00:00Z"));
    for (index, image) in [(None, None), (goes_on, None), (goes_on, over), (None, goes_on)] {
        assert_eq!(ended(index, image), "", "{index:?} {image:?}");
    }
    assert!(ended(None, over).starts_with("linux/arm64: its life ended on 2026-01-01"), "{}", ended(None, over));
    assert!(ended(over, None).starts_with("its life ended on 2026-01-01") && ended(over, goes_on).starts_with("its life ended"));
    assert_eq!(why(&wanted, &evidence(&[], &[], &[])), "unlooked", "its images may tell");
    assert_eq!(why(&wanted, &evidence(&["*"], &[], &[])), "", "it has none");
    assert_eq!(why(&wanted, &evidence(&["linux/amd64", "linux/arm64"], &[], &[])), "", "nothing of it runs here");
}

/// "Could not look" is never "not signed".
#[test]
fn an_image_that_could_not_be_looked_at_is_not_called_unsigned() {
    let wanted = proof(&json!({ "signatures": {}, "endOfLife": {} }), &BOTH);
    let mut found = evidence(&BOTH, &BOTH, &[item(&wanted, "Signature", 0, &BOTH)]);
    found.platforms[1] =
        PlatformEvidence { unseen: true, unproven: "the registry does not have it".to_owned(), ..found.platforms[1].clone() };
    assert_eq!(why(&wanted, &found), "linux/arm64: the registry does not have it");
    found.platforms = vec![PlatformEvidence { platform: "*".to_owned(), ..found.platforms[1].clone() }];
    assert_eq!(why(&wanted, &found), "the registry does not have it", "all of them");
}

#[test]
fn what_becomes_of_each_image_is_told_where_it_matters() {
    let wanted = proof(&json!({ "signatures": { "by": ["build"] } }), &BOTH);
    let inside = |found: &Evidence| {
        let ends = wanted.inside(Requirement::Signatures, found, &NoExceptions, NOW.parse().unwrap());
        ends.into_iter().map(|(platform, end)| (platform.to_owned(), end.is_ok())).collect::<Vec<_>>()
    };
    let one = evidence(&BOTH, &BOTH, &[item(&wanted, "Signature", 0, &["linux/amd64"])]);
    assert_eq!(inside(&one), [("linux/amd64".to_owned(), true), ("linux/arm64".to_owned(), false)]);
    assert_eq!(inside(&evidence(&BOTH, &BOTH, &[item(&wanted, "Signature", 0, &[])])), [], "the index is signed");
    assert_eq!(inside(&evidence(&[], &[], &[])), [], "nobody has looked");
}
