//! A leader at the size that is planned for: 20,000 ImageStatuses, 150,000 pods, 200 namespaces, 20 policies, 4 Registries.
//!
//! The program is the built binary, `lazaretto serve`, with its ServiceAccount's rights. What it reads and writes is in the laboratory's real
//! kube-apiserver and etcd, and the ImageStatuses are written there as it writes them itself: created, then their status replaced, by the same
//! client, so with the same `managedFields`. Only the pods are not: to make 150,000 of them takes longer than a bench should. So the program
//! reaches the API server through a proxy in this process, which answers the list of pods (in pages) and their watch (nothing happens) from
//! generated ones, passes everything else on as it is, and counts what is written.
//!
//! - `ready_20k_s`: from the start of the process until /readyz answers 200, of a replica that asks the API server itself: before it is ready it asks
//!   for no pods, and a proxy would take the time and the core of what it passes on;
//! - `leader_20k_s`: from the start of the leader until it has listed all pods, by the proxy;
//! - `rss_20k_mib`, `rss_20k_peak_mib`: VmRSS of the leader after the minute in which its writes were counted, and VmHWM;
//! - `etcd_bytes_per_image`: etcd's size in use, compacted and defragmented, after the ImageStatuses less before them, for each;
//!   `object_bytes_per_image`: the JSON of one, as the API server hands it out;
//! - `steady_writes_per_min`: what the leader asks the API server for that is no reading, in a minute after it has settled; of it
//!   `steady_lease_writes_per_min`, `steady_registry_writes_per_min` (4 Registries, one pass a minute each) and `steady_other_writes_per_min`.

mod etcd;
mod pods;
mod proxy;
mod seed;

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use self::{etcd::Etcd, pods::Pods, proxy::Proxy};
use crate::{
    cluster::{self, ACCOUNT, NAMESPACE},
    e2e::lab::{
        Lab,
        process::{Process, Program, free_port},
    },
    figures::{Figures, count, resident_of},
    registry::{Manner, Registry},
    stack::Threads,
};

/// Its figures.
pub const FIGURES: [&str; 10] = [
    "ready_20k_s",
    "leader_20k_s",
    "rss_20k_mib",
    "rss_20k_peak_mib",
    "etcd_bytes_per_image",
    "object_bytes_per_image",
    "steady_writes_per_min",
    "steady_lease_writes_per_min",
    "steady_registry_writes_per_min",
    "steady_other_writes_per_min",
];

const PODS: usize = 150_000;
const STEADY: Duration = Duration::from_secs(60);
/// By when the program is ready, has listed all, and is quiet.
const LATEST: Duration = Duration::from_secs(60);
/// It is quiet when it was on a core for less than this share of a second, three times.
const QUIET: f64 = 0.05;

/// Measures.
pub async fn measure(statuses: usize) -> Figures {
    let lab = cluster::lab().await;
    let threads = [Threads::new("seed", 2), Threads::new("proxy", 2)];
    let registry = threads[1].run(Registry::start(Manner::default())).await;
    let api = cluster::reach(lab.control_plane().kubeconfig()).await;
    let etcd = Etcd::beside(&api);
    let mut figures = Figures::default();

    let people = lab.control_plane().kubeconfig().to_owned();
    let program = lab.kubeconfig_of(NAMESPACE, ACCOUNT).await;
    threads[0].run(seed::rules(people, program.clone(), registry.address())).await;
    let before = etcd.bytes_in_use().await;
    let bytes = threads[0].run(seed::statuses(program, statuses)).await;
    let after = etcd.bytes_in_use().await;

    // Not by the proxy, which takes a core for what the API server answers.
    let straight = lab.kubeconfig_of(NAMESPACE, ACCOUNT).await;
    let begun = Instant::now();
    let (replica, admin) = start(lab, "replica", &straight).await;
    ready(&replica, &admin).await;
    figures.add("ready_20k_s", begun.elapsed().as_secs_f64(), "s");
    replica.signal("TERM").await;
    replica.exited(LATEST).await;

    let pods = Arc::new(Pods::new(PODS, statuses));
    let proxy = threads[1].run(Proxy::start(api, pods.clone())).await;
    let kubeconfig = lab.directory().join("leader.kubeconfig");
    write_kubeconfig(&kubeconfig, &proxy, &lab.token(NAMESPACE, ACCOUNT).await);
    let begun = Instant::now();
    let (leader, admin) = start(lab, "leader", &kubeconfig).await;
    ready(&leader, &admin).await;
    while !pods.are_listed() {
        assert!(begun.elapsed() < LATEST, "the leader has not listed all pods:\n{}", leader.tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures.add("leader_20k_s", begun.elapsed().as_secs_f64(), "s");
    quiet(&leader, begun + LATEST).await;

    proxy.forget_writes();
    tokio::time::sleep(STEADY).await;
    let writes = proxy.writes();
    let process = leader.pid().to_string();
    figures.add("rss_20k_mib", resident_of(&process, "VmRSS"), "MiB");
    figures.add("rss_20k_peak_mib", resident_of(&process, "VmHWM"), "MiB");
    let images = f64::from(u32::try_from(statuses).unwrap());
    #[allow(clippy::cast_precision_loss, reason = "bytes of a small database")]
    figures.add("etcd_bytes_per_image", (after as f64 - before as f64) / images, "bytes");
    figures.add("object_bytes_per_image", bytes, "bytes");
    let of = |path: &str| writes.iter().filter(|write| write.contains(path)).count();
    let (leases, registries) = (of("/leases/"), of("/registries/"));
    figures.add("steady_writes_per_min", count(writes.len()), "writes");
    figures.add("steady_lease_writes_per_min", count(leases), "writes");
    figures.add("steady_registry_writes_per_min", count(registries), "writes");
    figures.add("steady_other_writes_per_min", count(writes.len() - leases - registries), "writes");
    for write in writes.iter().filter(|write| !write.contains("/leases/") && !write.contains("/registries/")) {
        eprintln!("bench: the leader asked for {write}");
    }
    figures
}

/// The program's way to the API server: through the proxy.
fn write_kubeconfig(path: &Path, proxy: &Proxy, token: &str) {
    let authority = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &proxy.authority);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": {
            "server": format!("https://{}", proxy.address), "certificate-authority-data": authority,
        }}],
        "users": [{ "name": "bench", "user": { "token": token } }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench", "namespace": NAMESPACE } }],
    });
    std::fs::write(path, config.to_string()).unwrap();
}

/// The program, as the chart starts it but for its addresses. Returns where its probes are, too.
async fn start(lab: &Lab, name: &str, kubeconfig: &Path) -> (Process, String) {
    let address = |port: u16| format!("{}:{port}", Ipv4Addr::LOCALHOST);
    let [webhook, admin] = [(); 2].map(|()| address(free_port(Ipv4Addr::LOCALHOST.into())));
    let program = Program::new(name, env!("CARGO_BIN_EXE_lazaretto"), lab.directory())
        .env("KUBECONFIG", kubeconfig)
        .args(["serve", "--excluded-namespaces=kube-system"])
        .args([format!("--pod-name={name}")])
        .args([format!("--namespace={NAMESPACE}"), format!("--webhook-address={webhook}"), format!("--admin-address={admin}")])
        .spawn()
        .await;
    (program, admin)
}

async fn ready(leader: &Process, admin: &str) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().unwrap();
    let begun = Instant::now();
    while !http.get(format!("http://{admin}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(begun.elapsed() < LATEST && leader.exit_status().is_none(), "the leader is not ready:\n{}", leader.tail(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the process has next to nothing to do, or until that time.
async fn quiet(process: &Process, latest: Instant) {
    let mut seconds = 0;
    let mut last = on_core(process.pid());
    while seconds < 3 && Instant::now() < latest {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = on_core(process.pid());
        seconds = if now - last < QUIET { seconds + 1 } else { 0 };
        last = now;
    }
}

/// Seconds that a process has been on a core, as the kernel counts them.
fn on_core(pid: u32) -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the kernel's word about a process");
    // After the name, which may hold anything, stands the third field; the 14th and 15th are the times.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / TICKS_A_SECOND
}
