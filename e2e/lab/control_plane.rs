//! etcd, kube-apiserver and kube-controller-manager, set up as kubeadm does where it bears on admission.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use super::addresses::Addresses;
use super::process::{Process, Program};
use super::wait::eventually;

const ADMIN_TOKEN: &str = "lab-admin";

// Every write, with the audit annotations of webhooks and policies; reads and the chatter of controllers are left out.
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "verbs": ["get", "list", "watch"]},
    {"level": "None", "resources": [{"group": "", "resources": ["events"]}, {"group": "events.k8s.io"},
                                    {"group": "coordination.k8s.io"}]},
    {"level": "Metadata"}
  ]
}"#;

/// A certificate authority of the laboratory, and certificates signed by it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// PEM texts for a TLS server.
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server with these names or addresses.
    pub fn server(&self, names: &[String]) -> ServerCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        ServerCertificate { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// The running control plane.
pub struct ControlPlane {
    processes: Vec<Process>,
    server: String,
    authority: String,
    kubeconfig: PathBuf,
    audit_log: PathBuf,
}

impl ControlPlane {
    /// Starts it from the binaries in `tools`, with all that it writes in `directory`; returns when it is ready.
    pub async fn start(tools: &Path, directory: &Path, addresses: &Addresses) -> Self {
        let ip = addresses.control_plane();
        let authority = Authority::new("lab");
        let serving = authority.server(&[ip.to_string(), addresses.kubernetes_service().to_string(), "kubernetes.default.svc".into()]);
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("ca.pem", &authority.pem());
        write("server.pem", &serving.certificate);
        write("server.key", &serving.key);
        let accounts = KeyPair::generate().unwrap();
        write("accounts.key", &accounts.serialize_pem());
        write("accounts.pub", &accounts.public_key_pem());
        write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n"));
        write("audit.json", AUDIT_POLICY);

        let etcd = Program::new("etcd", tools.join("etcd"), directory)
            .args(["--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn", "--name=lab"])
            .args([
                format!("--listen-client-urls=http://{ip}:2379"),
                format!("--advertise-client-urls=http://{ip}:2379"),
                format!("--listen-peer-urls=http://{ip}:2380"),
                format!("--initial-advertise-peer-urls=http://{ip}:2380"),
                format!("--initial-cluster=lab=http://{ip}:2380"),
            ])
            .spawn()
            .await;
        let apiserver = Program::new("kube-apiserver", tools.join("kube-apiserver"), directory)
            .args([
                format!("--etcd-servers=http://{ip}:2379"),
                format!("--bind-address={ip}"),
                format!("--external-hostname={ip}"),
                format!("--service-cluster-ip-range={}", addresses.services()),
            ])
            .args([
                "--secure-port=6443",
                "--tls-cert-file=server.pem",
                "--tls-private-key-file=server.key",
                "--cert-dir=.",
                "--endpoint-reconciler-type=none",   // it would refuse to publish a loopback address
                "--enable-aggregator-routing=false", // webhooks are called at their Service's cluster IP
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--token-auth-file=tokens.csv",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=accounts.pub",
                "--service-account-signing-key-file=accounts.key",
                "--allow-privileged",
                "--audit-policy-file=audit.json",
                "--audit-log-path=audit.log",
            ])
            .spawn()
            .await;

        let mut this = Self {
            server: format!("https://{ip}:6443"),
            authority: authority.pem(),
            kubeconfig: directory.join("admin.kubeconfig"),
            audit_log: directory.join("audit.log"),
            processes: vec![etcd, apiserver],
        };
        this.write_kubeconfig(&this.kubeconfig, &json!({ "token": ADMIN_TOKEN }), "default");
        this.ready().await;

        let controllers = Program::new("kube-controller-manager", tools.join("kube-controller-manager"), directory)
            .arg(format!("--bind-address={ip}"))
            .args([
                "--kubeconfig=admin.kubeconfig",
                "--service-account-private-key-file=accounts.key",
                "--root-ca-file=ca.pem",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ])
            .spawn()
            .await;
        this.processes.push(controllers);
        this
    }

    async fn ready(&self) {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(self.authority.as_bytes()).unwrap()])
            .build()
            .unwrap();
        eventually(Duration::from_secs(90), "the API server is ready", async || {
            if let Some(ended) = self.processes.iter().find(|process| process.exit_status().is_some()) {
                panic!("a part of the control plane has ended:\n{}", ended.tail(40));
            }
            let request = http.get(format!("{}/readyz", self.server)).bearer_auth(ADMIN_TOKEN);
            let answer = request.send().await.map_err(anyhow::Error::from)?;
            match answer.error_for_status_ref() {
                Ok(_) => Ok(()),
                Err(error) => Err(anyhow::anyhow!("{error}: {}", answer.text().await.unwrap_or_default())),
            }
        })
        .await;
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig for `user`, the object that stands under `user:` in such a file.
    pub fn write_kubeconfig(&self, path: &Path, user: &Value, namespace: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{ "name": "lab", "cluster": {
                "server": self.server,
                "certificate-authority-data": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &self.authority),
            }}],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "user", "namespace": namespace } }],
        });
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// The user object of the administrator, acting as somebody else.
    pub fn impersonation(user: &str, groups: &[&str]) -> Value {
        json!({ "token": ADMIN_TOKEN, "as": user, "as-groups": groups })
    }

    /// What the API server wrote into its audit log: one event a line, every completed write.
    pub fn audit(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(&self.audit_log).unwrap_or_default();
        // The last line may be half written.
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its processes: etcd, the API server, the controller-manager.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }
}
