//! The laboratory of the end-to-end tests: a real control plane on loopback, registries, the chart and the program.
//!
//! [`Lab::start`] gives the control plane that all tests of this binary share; [`Lab::fresh`] one of a test's own, for
//! what changes the cluster as a whole. There is no kubelet: pods stay Pending, which is all that admission needs.
//!
//! Tests run on runtimes of their own, which end with them. So a [`Client`] is made for each test, never shared, and what
//! outlives a test (child processes, the Service's forwarder) lives on [`process::background`].

pub mod addresses;
pub mod control_plane;
pub mod forwarder;
pub mod image;
pub mod install;
pub mod process;
pub mod registry;
pub mod replica;
pub mod tokens;
pub mod wait;

use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use addresses::Addresses;
use control_plane::ControlPlane;
use process::{Output, Program, background};
use wait::until;

/// The repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A control plane and the clients to speak with it.
pub struct Lab {
    // Before the directory: what is dropped first must not write into a folder that is gone.
    control_plane: ControlPlane,
    addresses: Addresses,
    tools: PathBuf,
    directory: PathBuf,
    _lock: File,
    next: AtomicU32,
}

impl Lab {
    /// The laboratory that all tests share. Whoever comes first starts it.
    pub async fn start() -> &'static Self {
        static LAB: OnceCell<Option<Lab>> = OnceCell::const_new();
        let lab = LAB.get_or_init(async || {
            // One attempt: when it fails, the other tests must not each wait for the same failure.
            AssertUnwindSafe(Self::fresh()).catch_unwind().await.ok()
        });
        lab.await.as_ref().expect("the shared laboratory did not start; the first test that asked for it says why")
    }

    /// A laboratory of one's own. It ends when it is dropped.
    pub async fn fresh() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tools = tools().await;
        let (directory, lock) = work_directory();
        say(&format!("logs in {}", directory.display()));
        let addresses = Addresses::claim();
        let control_plane = ControlPlane::start(&tools, &directory, &addresses).await;
        Self { control_plane, addresses, tools, directory, _lock: lock, next: AtomicU32::new(0) }
    }

    /// The folder with every log and kubeconfig of this laboratory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The control plane: its processes and its audit log.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A client of the administrator. Failures are not retried, and no answer is waited for longer than a minute.
    pub async fn client(&self) -> Client {
        client(self.control_plane.kubeconfig()).await
    }

    /// A client of a person: `user` in `groups`, with no rights but what RBAC gives them.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        client(&self.kubeconfig_as(user, groups)).await
    }

    /// A client of a ServiceAccount, by a token of its own.
    pub async fn client_of(&self, namespace: &str, account: &str) -> Client {
        client(&self.kubeconfig_of(namespace, account).await).await
    }

    /// A kubeconfig file of a person.
    pub fn kubeconfig_as(&self, user: &str, groups: &[&str]) -> PathBuf {
        let path = self.directory.join(format!("{}.kubeconfig", self.number()));
        let groups: Vec<_> = groups.iter().copied().chain(["system:authenticated"]).collect();
        self.control_plane.write_kubeconfig(&path, &ControlPlane::impersonation(user, &groups), "default");
        path
    }

    /// A kubeconfig file of a ServiceAccount, with a token from TokenRequest.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let path = self.directory.join(format!("{}-{namespace}-{account}.kubeconfig", self.number()));
        let token = self.token(namespace, account).await;
        self.control_plane.write_kubeconfig(&path, &json!({ "token": token }), namespace);
        path
    }

    /// A token of a ServiceAccount, good for a day.
    pub async fn token(&self, namespace: &str, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    /// A new namespace that pods can be made in: its default ServiceAccount is there.
    pub async fn namespace(&self) -> String {
        self.namespace_with(json!({})).await
    }

    /// A new namespace with these labels.
    pub async fn namespace_with(&self, labels: Value) -> String {
        let client = self.client().await;
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "generateName": "test-", "labels": labels } })).unwrap();
        let made = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let name = made.metadata.name.unwrap();
        self.wait_for_account(&client, &name).await;
        name
    }

    /// Waits for the default ServiceAccount of a namespace, which the controller-manager makes a moment later.
    pub async fn wait_for_account(&self, client: &Client, namespace: &str) {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let there = |account: Option<&ServiceAccount>| account.is_some();
        until(accounts, "default", "the namespace has a default ServiceAccount", there).await;
    }

    /// One of the tools, with the administrator's kubeconfig.
    fn tool(&self, name: &str, arguments: &[&str]) -> Program {
        Program::new(name, self.tools.join(name), &self.directory)
            .env("KUBECONFIG", self.control_plane.kubeconfig())
            .args(arguments.iter().copied())
    }

    /// `kubectl` as the administrator.
    pub async fn kubectl(&self, arguments: &[&str]) -> Output {
        self.tool("kubectl", arguments).run("").await
    }

    /// `kubectl` as the administrator, with something on its standard input.
    pub async fn kubectl_input(&self, arguments: &[&str], input: &str) -> Output {
        self.tool("kubectl", arguments).run(input).await
    }

    /// `kubectl` with another kubeconfig file, as [`Self::kubeconfig_as`] and [`Self::kubeconfig_of`] write them.
    pub async fn kubectl_with(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        self.tool("kubectl", arguments).env("KUBECONFIG", kubeconfig).run("").await
    }

    /// `helm` as the administrator, in the repository's folder of charts.
    pub async fn helm(&self, arguments: &[&str]) -> Output {
        self.tool("helm", arguments).run("").await
    }

    /// `crane`.
    pub async fn crane(&self, arguments: &[&str]) -> Output {
        self.tool("crane", arguments).run("").await
    }

    /// The program under test as a command, with a kubeconfig file.
    pub async fn lazaretto(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        Program::new("lazaretto", env!("CARGO_BIN_EXE_lazaretto"), &self.directory)
            .env("KUBECONFIG", kubeconfig)
            .args(arguments.iter().copied())
            .run("")
            .await
    }

    /// The audit events of the API server that have `annotation` for the object `namespace/name`. Annotations of a webhook
    /// are named `<webhook's name>/<key>`.
    pub fn audit_of(&self, namespace: &str, name: &str) -> Vec<Value> {
        let is = |event: &Value, field: &str, value: &str| event["objectRef"][field] == value;
        let mut events = self.control_plane.audit();
        events.retain(|event| is(event, "namespace", namespace) && is(event, "name", name));
        events
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the next run removes the folder
        }
        let ends: Vec<_> = self.control_plane.processes().iter().map(process::Process::exit).collect();
        let directory = self.directory.clone();
        background().spawn(async move {
            for mut end in ends {
                let _ = end.wait_for(Option::is_some).await;
            }
            let _ = tokio::fs::remove_dir_all(directory).await;
        });
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(60));
    config.default_retry = false; // a 504 is an answer that tests ask for
    Client::try_from(config).unwrap()
}

/// The folder with the tools, built if need be: that may take ten minutes, and says so.
async fn tools() -> PathBuf {
    static TOOLS: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = TOOLS.get_or_init(async || {
        let output =
            tokio::process::Command::new(format!("{ROOT}/e2e/tools.sh")).stderr(std::process::Stdio::inherit()).output().await.unwrap();
        assert!(output.status.success(), "e2e/tools.sh failed");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    });
    folder.await.clone()
}

/// A folder for one laboratory under target/, locked while it is in use. What earlier runs left there is removed: so the
/// logs of a run, failed or not, stay until the next.
fn work_directory() -> (PathBuf, File) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab");
    std::fs::create_dir_all(&all).unwrap();
    for old in std::fs::read_dir(&all).unwrap().flatten() {
        let lock = File::open(old.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    let directory = all.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&directory).unwrap();
    let lock = File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    (directory, lock)
}

/// Tells the person who runs the tests, past the capture of the test harness.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}
