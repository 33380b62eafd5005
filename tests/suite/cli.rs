//! The program as people and pipelines run it: arguments and files in, output and exit code out.

#[path = "cli/everywhere.rs"]
mod everywhere;
#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/verify.rs"]
mod verify;
#[path = "cli/whatif.rs"]
mod whatif;

use std::{fs, path::Path, process::Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

/// How a run ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }

    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A directory of one's own, from which the program runs with nothing in its environment.
struct Desk {
    directory: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().display().to_string();
        Self { directory, environment: vec![("HOME", home)] }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file of objects on the desk.
    fn put(&self, name: &str, objects: &[Value]) {
        let documents: Vec<String> = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
        fs::write(self.path().join(name), documents.join("---\n")).unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"").await
    }

    async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_lazaretto"))
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async move {
            // Who has seen enough does not read on.
            let _written = stdin.write_all(input).await;
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "lazaretto.dev/v1alpha1", "kind": "QuarantinePolicy", "metadata": {"name": name}, "spec": spec})
}

fn registry(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": {"name": name}, "spec": spec})
}

/// An image status as Lazaretto writes it where it keeps the flag.
fn fact(subject: &str, state: &str) -> Value {
    let name = subject.parse::<lazaretto::image::Subject>().unwrap().object_name();
    json!({
        "apiVersion": "lazaretto.dev/v1alpha1",
        "kind": "ImageStatus",
        "metadata": {"name": name},
        "spec": {"subject": subject},
        "status": {
            "state": state,
            "since": "2026-01-01T00:00:00Z",
            "by": "lazaretto",
            "reason": "new",
            "provider": "Managed",
            "observedAt": "2026-01-01T00:00:00Z",
            "history": [{"number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "lazaretto", "reason": "new"}]
        }
    })
}

fn pod(name: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

#[tokio::test]
async fn an_image_is_one_line_with_what_it_has() {
    let desk = Desk::new();
    let pinned = format!("registry.corp/app@{}", digest('a'));
    let ended = desk.run(&["image", "nginx", &pinned]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let lines = ended.lines();
    assert_eq!(lines[0]["input"], "nginx");
    assert_eq!(
        (&lines[0]["registry"], &lines[0]["repository"], &lines[0]["tag"]),
        (&json!("docker.io"), &json!("library/nginx"), &json!("latest"))
    );
    assert!(lines[0].get("digest").is_none() && lines[0].get("name").is_none(), "what it has not is left out");
    assert_eq!((&lines[1]["digest"], &lines[1]["canonical"]), (&json!(digest('a')), &json!(pinned)));
    assert!(lines[1].get("tag").is_none());
    let subject: lazaretto::image::Subject = pinned.parse().unwrap();
    assert_eq!(lines[1]["name"], subject.object_name());
}

#[tokio::test]
async fn references_come_by_standard_input_and_one_refusal_is_told() {
    let desk = Desk::new();
    let long = "x".repeat(100_000);
    let input = format!("nginx\nnginx@sha256:12\n{long}\nbusybox");
    let ended = desk.run_with(&["image", "-"], input.as_bytes()).await;
    let lines = ended.lines();
    assert_eq!((ended.code, lines.len()), (1, 4));
    assert_eq!(lines[0]["repository"], "library/nginx");
    assert_eq!(lines[1]["input"], "nginx@sha256:12");
    assert!(!lines[1]["error"].as_str().unwrap().is_empty() && lines[1].get("registry").is_none());
    assert_eq!(lines[2]["error"], "it has more than 4096 bytes");
    assert_eq!(lines[2]["input"].as_str().unwrap().len(), 4097, "of an endless line a bounded part is kept");
    assert_eq!(lines[3]["repository"], "library/busybox", "what follows it is read as ever");
}

#[tokio::test]
async fn whoever_reads_may_leave_early() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_lazaretto"))
        .args(["image", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // More than pipes hold, so that the program meets the closed one before its input ends.
    let write = async move { stdin.write_all("nginx\n".repeat(100_000).as_bytes()).await };
    let (_, output) = tokio::join!(write, child.wait_with_output());
    let output = output.unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn definitions_are_a_stream_or_files() {
    let desk = Desk::new();
    let stream = desk.run(&["crds"]).await;
    assert_eq!(stream.code, 0);
    let names: Vec<Value> = serde_saphyr::from_multiple::<Value>(&stream.out).unwrap();
    let names: Vec<&str> = names.iter().map(|definition| definition["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["imagestatuses.lazaretto.dev", "quarantinepolicies.lazaretto.dev", "registries.lazaretto.dev", "waivers.lazaretto.dev"]
    );
    let files = desk.run(&["crds", "--directory", "a", "--directory", "b/c"]).await;
    assert_eq!((files.code, files.out.as_str()), (0, ""));
    let joined: Vec<String> = ["imagestatuses", "quarantinepolicies", "registries", "waivers"]
        .iter()
        .map(|name| fs::read_to_string(desk.path().join("b/c").join(format!("{name}.yaml"))).unwrap())
        .collect();
    assert_eq!(joined.join("---\n"), stream.out);
    assert!(joined[0].starts_with("# Generated by `lazaretto crds`; do not edit.\n"));
}

#[tokio::test]
async fn help_version_and_completion_are_no_errors_and_wrong_usage_is() {
    let desk = Desk::new();
    let version = desk.run(&["--version"]).await;
    assert_eq!((version.code, version.out.as_str()), (0, concat!("lazaretto ", env!("CARGO_PKG_VERSION"), "\n")));
    let help = desk.run(&["check", "--help"]).await;
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes: 0 admitted, 1 refused, 2 usage or unreadable input, 3 not known yet."), "{}", help.out);
    let script = desk.run(&["completion", "bash"]).await;
    assert_eq!(script.code, 0);
    assert!(script.out.contains("complete -F _lazaretto"), "{}", script.out);
    let wrong = desk.run(&["check"]).await;
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("<MANIFEST>"), "{}", wrong.err);
    let unknown = desk.run(&["chekc"]).await;
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("a similar subcommand exists: 'check'"), "{}", unknown.err);
}

#[tokio::test]
async fn decisions_need_a_reason_and_a_cluster() {
    let desk = Desk::new();
    let image = format!("registry.corp/app@{}", digest('a'));
    let without = desk.run(&["quarantine", "release", &image]).await;
    assert_eq!(without.code, 2);
    assert!(without.err.contains("--reason <TEXT>"), "{}", without.err);
    let empty = desk.run(&["quarantine", "release", &image, "--reason", " "]).await;
    assert_eq!(empty.code, 2);
    assert!(empty.err.contains("give 1 to 256 characters"), "{}", empty.err);
    let nowhere = desk.run(&["quarantine", "release", &image, "--reason", "scanned"]).await;
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.err.starts_with("lazaretto: no cluster to ask: "), "{}", nowhere.err);
}
