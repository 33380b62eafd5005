//! Distribution's registry as a child process, and images pushed to it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::Lab;
use super::control_plane::ServerCertificate;
use super::image::{INDEX, Image, MANIFEST, digest, index};
use super::process::{Process, Program, free_port};
use super::tokens::{ISSUER, TokenServer};
use super::wait::{MOMENT, eventually};

/// The user that a registry with [`Options::password`] knows.
pub const USER: &str = "puller";
/// Its password.
pub const PASSWORD: &str = "opensesame";
/// Another password, for [`Registry::change_password`].
pub const OTHER_PASSWORD: &str = "changed";

// bcrypt at its lowest cost, of the two passwords: the registry computes it at each request.
const HASHES: [(&str, &str); 2] = [
    (PASSWORD, "$2a$04$5IIv67AxU4P8PqQ59nJBQeYcgwCvdH3YPukL5n6tiNsED.Cd/IaEi"),
    (OTHER_PASSWORD, "$2a$04$Ich5OQjWRQLSimOHwMWV2Ov8a2goSIgat3EADLvgEOth2XQzFS3yC"),
];

/// How a registry is set up; by default plain HTTP for everybody.
#[derive(Default)]
pub struct Options {
    /// HTTPS with this certificate; it should name `localhost`.
    pub tls: Option<ServerCertificate>,
    /// Basic authentication: [`USER`] and [`PASSWORD`].
    pub password: bool,
}

/// A registry at `localhost:<port>`. It keeps its port and its images when it is stopped and started again.
pub struct Registry {
    process: Option<Process>,
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    password: Option<&'static str>,
    scheme: &'static str,
    http: reqwest::Client,
}

impl Registry {
    /// Starts a registry with nothing in it.
    pub async fn start(lab: &Lab, options: Options) -> Self {
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = free_port(address);
        let directory = lab.directory.join(format!("registry-{port}"));
        std::fs::create_dir(&directory).unwrap();
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": directory.join("data") }, "delete": { "enabled": true } },
            "http": { "addr": format!("{address}:{port}"), "secret": "lab" },
        });
        let mut scheme = "http";
        if let Some(tls) = &options.tls {
            scheme = "https";
            std::fs::write(directory.join("server.pem"), &tls.certificate).unwrap();
            std::fs::write(directory.join("server.key"), &tls.key).unwrap();
            config["http"]["tls"] = json!({ "certificate": "server.pem", "key": "server.key" });
        }
        if options.password {
            config["auth"] = json!({ "htpasswd": { "realm": "lab", "path": "htpasswd" } });
        }
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0) // a connection belongs to one test's runtime
            .tls_danger_accept_invalid_certs(true) // it is the product that must check them
            .timeout(MOMENT)
            .build()
            .unwrap();
        let mut this = Self { process: None, program: lab.tools.join("registry"), directory, port, password: None, scheme, http };
        if options.password {
            this.set_password(PASSWORD);
        }
        this.start_again().await;
        this
    }

    /// Its name in image references: `localhost:<port>`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `localhost:<port>/repository:tag`.
    pub fn tagged(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// `localhost:<port>/repository@digest`.
    pub fn pinned(&self, repository: &str, digest: &str) -> String {
        format!("{}/{repository}@{digest}", self.host())
    }

    /// Its process, to freeze (`STOP`) and thaw (`CONT`) it.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the registry is stopped")
    }

    /// Kills it. From then on its port refuses connections.
    pub async fn stop(&mut self) {
        let process = self.process.take().expect("the registry is stopped already");
        process.signal("KILL").await;
        process.exited(MOMENT).await;
    }

    /// Starts it again after [`Self::stop`], on the same port, with all that it held.
    pub async fn start_again(&mut self) {
        let process = Program::new("registry", &self.program, &self.directory)
            .args(["serve", "config.json"])
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .await;
        eventually(MOMENT, "the registry answers", async || {
            assert!(process.exit_status().is_none(), "the registry has ended:\n{}", process.tail(20));
            self.get("").timeout(Duration::from_secs(1)).send().await
        })
        .await;
        self.process = Some(process);
    }

    /// From now on it wants tokens of this server. What was pushed before stays; nothing more can be pushed.
    pub async fn behind(&mut self, tokens: &TokenServer) {
        std::fs::write(self.directory.join("tokens.pem"), &tokens.authority).unwrap();
        let path = self.directory.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["auth"] = json!({
            "token": { "realm": tokens.realm(), "service": "registry", "issuer": ISSUER, "rootcertbundle": "tokens.pem" },
        });
        std::fs::write(&path, config.to_string()).unwrap();
        self.stop().await;
        self.start_again().await;
    }

    /// From now on the user's password is `password`: [`PASSWORD`] or [`OTHER_PASSWORD`].
    pub async fn change_password(&mut self, password: &str) {
        self.set_password(password);
        self.stop().await;
        self.start_again().await;
    }

    fn set_password(&mut self, password: &str) {
        let (password, hash) = HASHES.into_iter().find(|(known, _)| *known == password).expect("a known password");
        std::fs::write(self.directory.join("htpasswd"), format!("{USER}:{hash}\n")).unwrap();
        self.password = Some(password);
    }

    fn request(&self, method: http::Method, url: String) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match self.password {
            Some(password) => request.basic_auth(USER, Some(password)),
            None => request,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}/v2/{path}", self.scheme, self.port)
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::GET, self.url(path))
    }

    /// Pushes an image under a tag. Returns its digest.
    pub async fn push(&self, repository: &str, tag: &str, variant: &str) -> String {
        let image = Image::new(variant);
        self.push_parts(repository, &image).await;
        self.push_manifest(repository, tag, MANIFEST, &image.manifest).await
    }

    /// Pushes an index of linux/amd64 and linux/arm64 under a tag. Returns its digest and those of its children.
    pub async fn push_index(&self, repository: &str, tag: &str, variant: &str) -> (String, Vec<String>) {
        let images = ["amd64", "arm64"].map(|architecture| Image::for_platform(variant, "linux", architecture));
        let mut children = Vec::new();
        for image in &images {
            self.push_parts(repository, image).await;
            children.push(self.push_manifest(repository, &image.digest(), MANIFEST, &image.manifest).await);
        }
        (self.push_manifest(repository, tag, INDEX, &index(&images)).await, children)
    }

    async fn push_parts(&self, repository: &str, image: &Image) {
        self.push_blob(repository, &image.layer).await;
        self.push_blob(repository, &image.config).await;
    }

    /// Uploads a blob. Returns its digest.
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let upload = self.request(http::Method::POST, self.url(&format!("{repository}/blobs/uploads/")));
        let upload = upload.send().await.unwrap().error_for_status().unwrap();
        let mut place: url::Url = upload.headers()[http::header::LOCATION].to_str().unwrap().parse().unwrap();
        place.query_pairs_mut().append_pair("digest", &digest);
        let put = self.request(http::Method::PUT, place.into()).body(bytes.to_vec());
        put.send().await.unwrap().error_for_status().unwrap();
        digest
    }

    /// Puts a manifest of any kind under a tag or its digest. Returns its digest.
    pub async fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let put = self
            .request(http::Method::PUT, self.url(&format!("{repository}/manifests/{tag}")))
            .header(http::header::CONTENT_TYPE, media_type)
            .body(bytes.to_vec());
        put.send().await.unwrap().error_for_status().unwrap();
        digest(bytes)
    }

    /// Deletes a manifest by its digest.
    pub async fn delete(&self, repository: &str, digest: &str) {
        let delete = self.request(http::Method::DELETE, self.url(&format!("{repository}/manifests/{digest}")));
        delete.send().await.unwrap().error_for_status().unwrap();
    }

    /// How many requests for manifests of `repository` it has answered, by its own log.
    pub fn manifest_requests(&self, repository: &str) -> usize {
        let path = format!("/v2/{repository}/manifests/");
        let log = String::from_utf8_lossy(&std::fs::read(self.directory.join("registry.log")).unwrap()).into_owned();
        log.lines().filter(|line| line.contains("response completed") && line.contains(&path)).count()
    }
}
