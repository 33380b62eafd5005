//! `lazaretto check` from files alone.

use super::*;

/// A desk with a registry whose flag Lazaretto keeps, and the policy that images must be released.
fn desk() -> Desk {
    let desk = Desk::new();
    let spec = json!({"hosts": ["registry.corp"], "quarantine": {"provider": "Managed", "processor": {"namespace": "scan", "serviceAccount": "scanner"}}});
    desk.put("policy.yaml", &[registry("corp", &spec), policy("baseline", &json!({"match": {"images": ["registry.corp/**"]}}))]);
    desk
}

fn image(digit: char) -> String {
    format!("registry.corp/app@{}", digest(digit))
}

#[tokio::test]
async fn released_is_admitted_quarantined_is_refused_and_the_rest_is_not_known() {
    let desk = desk();
    desk.put("facts.yaml", &[fact(&image('a'), "Released"), fact(&image('b'), "Quarantined")]);
    for (digit, code, answer, reason) in [
        ('a', 0, "Admit", "Released since 2026-01-01T00:00:00Z by lazaretto"),
        (
            'b',
            1,
            "Refuse",
            "in quarantine since 2026-01-01T00:00:00Z by lazaretto (new). Whoever has the role lazaretto-releaser may release it",
        ),
        ('c', 3, "Later", "not known offline: give --facts, --registries or --cluster"),
    ] {
        desk.put("pod.yaml", &[pod("web", &image(digit))]);
        let ended = desk.run(&["check", "pod.yaml", "--policy", "policy.yaml", "--facts", "facts.yaml", "--output=json"]).await;
        assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
        let report = ended.json();
        assert_eq!(report["answer"], answer);
        let object = &report["objects"][0];
        assert_eq!((&object["kind"], &object["name"], &object["namespace"]), (&json!("Pod"), &json!("web"), &json!("default")));
        let judged = &object["images"][0];
        assert_eq!((&judged["path"], &judged["image"]), (&json!("spec.containers[main].image"), &json!(image(digit))));
        assert_eq!(judged["digest"], digest(digit));
        let opinion = &judged["opinions"][0];
        assert_eq!((&opinion["policy"], &opinion["mode"], &opinion["verdict"]), (&json!("baseline"), &json!("Enforce"), &json!(answer)));
        assert!(opinion["reason"].as_str().unwrap().starts_with(reason), "{opinion}");
    }
}

#[tokio::test]
async fn the_table_is_for_people() {
    let desk = desk();
    desk.put("facts.yaml", &[fact(&image('b'), "Quarantined")]);
    desk.put(
        "pod.yaml",
        &[pod("web", &image('b')), pod("other", "nginx"), json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}})],
    );
    let ended = desk.run(&["check", "pod.yaml", "--policy", "policy.yaml", "--facts", "facts.yaml"]).await;
    assert_eq!(ended.code, 1);
    let lines: Vec<Vec<&str>> =
        ended.out.lines().map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["Pod default/web: refused"]);
    assert_eq!(lines[1], ["IMAGE", "DIGEST", "POLICY", "MODE", "VERDICT", "REASON"]);
    assert_eq!(lines[2][..5], [image('b').as_str(), "bbbbbbbbbbbb", "baseline", "Enforce", "Refuse"]);
    assert!(lines[2][5].starts_with("in quarantine since 2026-01-01T00:00:00Z"), "{}", ended.out);
    assert_eq!(lines[4], ["Pod default/other: admitted"]);
    assert_eq!(lines[6], ["nginx", "-", "-", "-", "Admit", "no policy speaks of it"]);
    assert_eq!(ended.err, "lazaretto: not judged, since no pod is known in it: Service web\n");
    assert!(!ended.out.contains('\x1b'), "colours are for terminals");
}

#[tokio::test]
async fn every_image_of_every_workload_is_found() {
    let desk = desk();
    desk.put("facts.yaml", &[fact(&image('a'), "Released"), fact(&image('b'), "Quarantined")]);
    let template = json!({"spec": {
        "initContainers": [{"name": "i", "image": image('a')}],
        "containers": [{"name": "c", "image": image('a')}],
        "volumes": [{"name": "v", "image": {"reference": image('b')}}]
    }});
    desk.put("all.yaml", &[json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "team"}, "spec": {"template": template}},
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "night"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    ]})]);
    let text = fs::read(desk.path().join("all.yaml")).unwrap();
    let ended = desk.run_with(&["check", "-", "--policy=policy.yaml", "--facts=facts.yaml", "-o", "json"], &text).await;
    assert_eq!(ended.code, 1);
    let report = ended.json();
    for (object, kind, namespace) in [(0, "Deployment", "team"), (1, "CronJob", "default")] {
        let object = &report["objects"][object];
        assert_eq!((&object["kind"], &object["namespace"], &object["answer"]), (&json!(kind), &json!(namespace), &json!("Refuse")));
        let paths: Vec<&Value> = object["images"].as_array().unwrap().iter().map(|image| &image["path"]).collect();
        assert_eq!(paths, ["spec.initContainers[i].image", "spec.containers[c].image", "spec.volumes[v].image.reference"]);
        assert_eq!(object["images"][2]["opinions"][0]["verdict"], "Refuse");
    }
}

#[tokio::test]
async fn a_tag_is_known_by_what_it_is_said_to_stand_for() {
    let desk = desk();
    desk.put("facts.yaml", &[fact(&image('b'), "Quarantined")]);
    let arguments = ["check", "--image", "registry.corp/app:1", "--policy=policy.yaml", "--facts=facts.yaml", "-ojson"];
    let ended = desk.run(&arguments).await;
    assert_eq!(ended.code, 3);
    let opinion = &ended.json()["objects"][0]["images"][0]["opinions"][0];
    assert_eq!(opinion["reason"], "not known offline which digest the tag stands for: give --tag NAME:TAG=DIGEST or --registries");
    assert_eq!((&opinion["verdict"], &opinion["basis"]), (&json!("Later"), &json!("NotAsked")));
    let tag = format!("--tag=registry.corp/app:1={}", digest('b'));
    let ended = desk.run(&[&arguments[..], &[&tag]].concat()).await;
    assert_eq!(ended.code, 1);
    let object = &ended.json()["objects"][0];
    assert_eq!((&object["kind"], &object["name"]), (&json!("Image"), &json!("registry.corp/app:1")));
    assert_eq!((&object["images"][0]["digest"], &object["images"][0]["state"]), (&json!(digest('b')), &json!("Quarantined")));
    let other = format!("--tag=registry.corp/app:1={}", digest('c'));
    let ended = desk.run(&[&arguments[..], &[&tag, &other]].concat()).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.starts_with("lazaretto: --tag says two things of registry.corp/app"), "{}", ended.err);
}

#[tokio::test]
async fn only_policies_that_enforce_refuse_unless_strict() {
    let desk = desk();
    desk.put("warn.yaml", &[policy("gentle", &json!({"mode": "Warn"})), policy("quiet", &json!({"mode": "Audit"}))]);
    let arguments = ["check", "--image=nginx", "--policy=warn.yaml", "-ojson"];
    let ended = desk.run(&arguments).await;
    assert_eq!(ended.code, 0);
    let report = ended.json();
    assert_eq!(report["answer"], "Admit");
    let opinions = report["objects"][0]["images"][0]["opinions"].as_array().unwrap().clone();
    let modes: Vec<(&Value, &Value)> = opinions.iter().map(|opinion| (&opinion["mode"], &opinion["verdict"])).collect();
    assert_eq!(modes, [(&json!("Warn"), &json!("Refuse")), (&json!("Audit"), &json!("Refuse"))]);
    let strict = desk.run(&[&arguments[..], &["--strict"]].concat()).await;
    assert_eq!(strict.code, 1);
    assert_eq!(strict.json()["objects"][0]["images"][0]["opinions"][0]["mode"], "Warn", "the mode is told as it is");
}

#[tokio::test]
async fn the_namespace_and_the_account_may_be_given() {
    let desk = desk();
    desk.put("facts.yaml", &[fact(&image('b'), "Quarantined")]);
    desk.put("pod.yaml", &[pod("web", &image('b'))]);
    let arguments = ["check", "pod.yaml", "--policy=policy.yaml", "--facts=facts.yaml", "-ojson"];
    let processor = desk.run(&[&arguments[..], &["--namespace=scan", "--service-account=scanner"]].concat()).await;
    assert_eq!(processor.code, 0);
    assert_eq!(processor.json()["objects"][0]["images"][0]["opinions"][0]["reason"], "the pod is the quarantine processor's");
    assert_eq!(desk.run(&[&arguments[..], &["--namespace=scan"]].concat()).await.code, 1);

    let chooses = json!({"match": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}, "deny": [{"image": "registry.corp/**", "reason": "stop"}]});
    desk.put("policy.yaml", &[policy("prod", &chooses)]);
    let unsure = desk.run(&["check", "pod.yaml", "--policy=policy.yaml"]).await;
    assert_eq!(unsure.code, 3);
    assert!(unsure.out.starts_with("Pod default/web: not known yet: policy prod chooses namespaces by their labels, and those of default are not known: give --namespace-label"), "{}", unsure.out);
    assert_eq!(desk.run(&["check", "pod.yaml", "--policy=policy.yaml", "--namespace-label=env=test"]).await.code, 0);
    assert_eq!(desk.run(&["check", "pod.yaml", "--policy=policy.yaml", "--namespace-label=env=prod"]).await.code, 1);
}

#[tokio::test]
async fn input_that_cannot_be_judged_is_an_error_that_says_why() {
    let desk = desk();
    desk.put("pod.yaml", &[pod("web", "nginx")]);
    desk.put("typo.yaml", &[policy("typo", &json!({"requires": {"released": "Deny"}}))]);
    desk.put("secret.yaml", &[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})]);
    fs::write(desk.path().join("broken.yaml"), "kind: Pod\n  metadata: [hunter2").unwrap();
    fs::write(
        desk.path().join("wrong.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: w}\nspec: {containers: [{image: {a: hunter2}}]}",
    )
    .unwrap();
    for (arguments, words) in [
        (&["check", "missing.yaml", "--policy=policy.yaml"][..], "cannot read missing.yaml: No such file or directory"),
        (&["check", "broken.yaml", "--policy=policy.yaml"], "cannot read broken.yaml: "),
        (
            &["check", "wrong.yaml", "--policy=policy.yaml"],
            "cannot read wrong.yaml: cannot read Pod w: a field has another type than Kubernetes gives it",
        ),
        (&["check", "pod.yaml"], "there is no policy to judge by: give --policy FILE or --cluster"),
        (&["check", "pod.yaml", "--policy=typo.yaml"], "cannot read typo.yaml: QuarantinePolicy typo: spec.requires is no field of it"),
        (&["check", "pod.yaml", "--policy=secret.yaml"], "cannot read secret.yaml: Secret (v1) is not read here: give QuarantinePolicy"),
        (&["check", "-", "--policy=policy.yaml"], "standard input is empty: there is nothing to judge"),
        (&["check", "-", "--policy=-"], "only one of the inputs can be standard input"),
        (&["check", "pod.yaml", "--policy=policy.yaml", "--cluster"], "no cluster to ask: "),
    ] {
        let ended = desk.run(arguments).await;
        assert_eq!(ended.code, 2, "{arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with(&format!("lazaretto: {words}")), "{arguments:?}: {}", ended.err);
        assert!(!ended.err.contains("hunter2") && ended.out.is_empty(), "{arguments:?}: {}", ended.err);
    }
}

#[tokio::test]
async fn standard_input_is_bounded() {
    let desk = desk();
    let endless = vec![b' '; (16 << 20) + 1];
    let ended = desk.run_with(&["check", "-", "--policy=policy.yaml"], &endless).await;
    assert_eq!((ended.code, ended.err.as_str()), (2, "lazaretto: standard input has more than 16 MiB\n"));
}

/// Whose pod it is decides, and what has to be proven is not known from files.
#[tokio::test]
async fn where_an_image_comes_from_and_who_may_use_it_is_judged() {
    let desk = Desk::new();
    let spec = json!({
        "hosts": ["registry.corp"], "exclude": ["old/**"],
        "access": [
            {"paths": ["team/**"], "allow": {"namespaces": ["team"], "serviceAccounts": [{"namespace": "ci", "name": "runner"}]}},
            {"paths": ["gold/**"], "allow": {"namespaceSelector": {"matchLabels": {"tier": "gold"}}}},
            {"paths": ["proven/**"], "prove": "PullSecret"},
        ],
    });
    let sources = json!({"allowed": ["registry.corp/**"], "unqualified": "Deny"});
    desk.put("policy.yaml", &[registry("corp", &spec), policy("baseline", &json!({"require": {"released": "Off", "sources": sources}}))]);
    for (image, arguments, code, reason) in [
        ("registry.corp/old/app", &["--namespace=team", "--namespace-label=a=b"][..], 1, "excludes the repository"),
        (
            "other.corp/app",
            &["--namespace=team", "--namespace-label=a=b"],
            1,
            "this policy admits images from registry.corp/**, and from nowhere else",
        ),
        ("nginx", &["--namespace=team", "--namespace-label=a=b"], 1, "write docker.io/library/nginx"),
        ("registry.corp/team/app", &["--namespace=team", "--namespace-label=a=b"], 0, "asks for nothing more"),
        (
            "registry.corp/team/app",
            &["--namespace=other", "--namespace-label=a=b"],
            1,
            "the image was not found, or Lazaretto is not permitted",
        ),
        ("registry.corp/team/app", &["--namespace=ci", "--service-account=runner", "--namespace-label=a=b"], 0, "asks for nothing more"),
        ("registry.corp/gold/app", &["--namespace=other", "--namespace-label=tier=gold"], 0, "asks for nothing more"),
        ("registry.corp/gold/app", &["--namespace=other"], 3, "registry corp chooses namespaces by their labels"),
        (
            "registry.corp/proven/app",
            &["--namespace=team", "--namespace-label=a=b"],
            3,
            "wants to have it proven by the pod's pull secrets",
        ),
    ] {
        let image = format!("--image={image}");
        let ended = desk.run(&[&["check", "--policy=policy.yaml", "--output=json", &image], arguments].concat()).await;
        assert_eq!(ended.code, code, "{image} {arguments:?}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains(reason), "{image} {arguments:?}: {}", ended.out);
    }
}
