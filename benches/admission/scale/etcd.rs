//! How much etcd holds, by its own word, over the gateway that speaks JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Reach;

/// The laboratory's etcd.
pub struct Etcd {
    base: String,
    http: reqwest::Client,
}

impl Etcd {
    /// That of an API server, which is at the same address.
    pub fn beside(api: &Reach) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { base: format!("http://{}:2379/v3", api.server.host_str().unwrap()), http }
    }

    async fn call(&self, method: &str, request: Value) -> Value {
        let call = self.http.post(format!("{}/{method}", self.base)).body(request.to_string());
        let answer = call.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// The bytes in use of its database, once everything but the newest state of each key is thrown away.
    pub async fn bytes_in_use(&self) -> u64 {
        let revision = self.call("maintenance/status", json!({})).await["header"]["revision"].clone();
        self.call("kv/compaction", json!({ "revision": revision, "physical": true })).await;
        self.call("maintenance/defragment", json!({})).await;
        self.call("maintenance/status", json!({})).await["dbSizeInUse"].as_str().unwrap().parse().unwrap()
    }
}
