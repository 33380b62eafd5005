//! One replica: the built program with the ServiceAccount, the arguments and the environment of the chart's Deployment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitStatus;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;

use super::Lab;
use super::forwarder::{Forwarder, Membership};
use super::install::NAMESPACE;
use super::process::{Process, Program};
use super::wait::{MOMENT, eventually};

const WEBHOOK_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 8080;

/// A running replica. Dropping it kills it.
pub struct Replica {
    // First: it leaves the Service before it dies.
    _membership: Membership,
    process: Process,
    pod: String,
    webhook: SocketAddr,
    admin: SocketAddr,
    http: reqwest::Client,
}

impl Replica {
    /// Starts the program as `pod` of `deployment`. Only the addresses that it listens on are our own.
    pub(super) async fn start(lab: &Lab, forwarder: &Forwarder, deployment: &Deployment, number: u8, pod: &str) -> Self {
        let spec = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let account = spec.service_account_name.as_deref().expect("the Deployment names its ServiceAccount");
        let [container] = &spec.containers[..] else { panic!("the Deployment has one container") };
        let ip = lab.addresses.replica(number);
        let (webhook, admin) = (SocketAddr::new(ip, WEBHOOK_PORT), SocketAddr::new(ip, ADMIN_PORT));
        let environment = environment(container, pod, ip);
        let arguments = container.args.iter().flatten();
        let mut arguments: Vec<_> = arguments.map(|argument| expand(argument, &environment)).collect();
        replace_flag(&mut arguments, "--webhook-address", webhook);
        replace_flag(&mut arguments, "--admin-address", admin);
        let mut program = Program::new(&format!("replica-{number}"), env!("CARGO_BIN_EXE_lazaretto"), lab.directory())
            .env("KUBECONFIG", lab.kubeconfig_of(NAMESPACE, account).await)
            .args(arguments);
        for (name, value) in environment {
            program = program.env(name, value);
        }
        let process = program.spawn().await;
        // No pool: a connection belongs to the runtime of the test that made it, and a replica may be shared by several.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(5));
        let http = http.build().unwrap();
        Self { _membership: forwarder.join(webhook, admin), process, pod: pod.into(), webhook, admin, http }
    }

    /// The name of its pod, which is its name as a holder of the Lease.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Where it answers reviews, past the Service.
    pub fn webhook(&self) -> SocketAddr {
        self.webhook
    }

    /// Waits until /readyz answers 200.
    pub async fn wait_ready(&self) {
        eventually(MOMENT, "the replica is ready", async || {
            assert!(self.process.exit_status().is_none(), "the replica has ended:\n{}", self.process.tail(40));
            self.get("/readyz").await
        })
        .await;
    }

    /// Sends a signal: `"TERM"`, `"KILL"`, `"STOP"`, `"CONT"`.
    pub async fn signal(&self, signal: &str) {
        self.process.signal(signal).await;
    }

    /// Waits for its end.
    pub async fn exited(&self, within: Duration) -> ExitStatus {
        self.process.exited(within).await
    }

    /// All it has logged.
    pub fn logs(&self) -> String {
        self.process.log()
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    pub async fn wait_for_log(&self, text: &str) -> String {
        eventually(MOMENT, &format!("the replica logs {text:?}"), async || {
            let logs = self.logs();
            let line = logs.lines().find(|line| line.contains(text)).map(str::to_owned);
            line.ok_or_else(|| format!("not in:\n{}", self.process.tail(20)))
        })
        .await
    }

    /// GET on the admin address: the body of an answer that is 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.http.get(format!("http://{}{path}", self.admin)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status}: {text}");
        Ok(text)
    }

    /// Its metrics, in text.
    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.unwrap()
    }

    /// The sum of the series called `name` whose labels include all of `labels`; zero when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.metrics().await, name, labels)
    }
}

fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (called, own) = series.split_once('{').unwrap_or((series, ""));
        let has = |label: &String| own.trim_end_matches('}').split(',').any(|one| one == label);
        (called == name && wanted.iter().all(has)).then(|| value.parse::<f64>().unwrap())
    });
    values.sum()
}

/// The container's environment, with what the kubelet would fill in.
fn environment(container: &Container, pod: &str, ip: IpAddr) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let field = variable.value_from.as_ref().map(|source| source.field_ref.as_ref().map(|field| &*field.field_path));
        let value = match field {
            None => expand(variable.value.as_deref().unwrap_or_default(), &environment),
            Some(Some("metadata.name")) => pod.to_owned(),
            Some(Some("metadata.namespace")) => NAMESPACE.to_owned(),
            Some(Some("status.podIP")) => ip.to_string(),
            Some(_) => panic!("the laboratory cannot fill in {variable:?}"),
        };
        environment.insert(variable.name.clone(), value);
    }
    environment
}

/// `$(NAME)` replaced by the variable's value, where there is one.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    environment.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// Takes out `flag value` and `flag=value`, and puts in our own.
fn replace_flag(arguments: &mut Vec<String>, flag: &str, value: SocketAddr) {
    while let Some(at) = arguments.iter().position(|argument| argument == flag) {
        arguments.drain(at..(at + 2).min(arguments.len()));
    }
    arguments.retain(|argument| !argument.starts_with(&format!("{flag}=")));
    arguments.push(format!("{flag}={value}"));
}

#[test]
fn a_replica_gets_what_the_kubelet_would_give_it() {
    let container = serde_json::from_value(serde_json::json!({
        "name": "c",
        "env": [
            { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "NO_PROXY", "value": "a,$(POD_NAME),$(OTHER)" },
        ],
    }));
    let environment = environment(&container.unwrap(), "pod-1", [127, 0, 0, 1].into());
    assert_eq!(environment["NO_PROXY"], "a,pod-1,$(OTHER)");
    assert_eq!(expand("--pod-name=$(POD_NAME)", &environment), "--pod-name=pod-1");
    let mut arguments = ["serve", "--a=1", "--b", "2", "--c"].map(String::from).to_vec();
    replace_flag(&mut arguments, "--a", SocketAddr::from(([127, 0, 0, 1], 1)));
    replace_flag(&mut arguments, "--b", SocketAddr::from(([127, 0, 0, 1], 2)));
    assert_eq!(arguments, ["serve", "--c", "--a=127.0.0.1:1", "--b=127.0.0.1:2"]);
}

#[test]
fn a_metric_is_the_sum_of_its_series() {
    let metrics = "# TYPE n counter\nn_total{a=\"x\",b=\"1\"} 2\nn_total{a=\"x\",b=\"2\"} 3\nn_total{a=\"y\"} 5\nm 7\n";
    assert!((sum(metrics, "n_total", &[("a", "x")]) - 5.0).abs() < f64::EPSILON);
    assert!((sum(metrics, "n_total", &[]) - 10.0).abs() < f64::EPSILON);
    assert!((sum(metrics, "m", &[]) - 7.0).abs() < f64::EPSILON);
    assert!(sum(metrics, "n", &[]).abs() < f64::EPSILON);
}

/// Kills them all at once, and waits until they are gone.
pub async fn kill(replicas: &mut Vec<Replica>) {
    for replica in replicas.iter() {
        replica.signal("KILL").await;
    }
    for replica in replicas.drain(..) {
        replica.exited(MOMENT).await;
    }
}
