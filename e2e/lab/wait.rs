//! Waiting without sleeping blindly: a watch where there is one, short polls with a deadline where there is none.

use std::fmt::{Debug, Display};
use std::time::Duration;

use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Resource};
use tokio::time::{Instant, sleep, timeout};

/// How long a thing may take that ought to take a moment, on two busy cores.
pub const MOMENT: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(50);

/// Asks again and again until `attempt` succeeds, and panics with its last error when `deadline` has passed.
pub async fn eventually<T, E: Display>(deadline: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + deadline;
    let mut last = String::from("the first attempt did not end");
    loop {
        match timeout(end.saturating_duration_since(Instant::now()), attempt()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => {}
        }
        assert!(Instant::now() < end, "{what}: not within {deadline:?}; last: {last}");
        sleep(INTERVAL).await;
    }
}

/// Watches one object until `condition` holds, and returns it; `None` when the condition is that it is gone.
pub async fn until<K>(api: Api<K>, name: &str, what: &str, condition: impl Condition<K>) -> Option<K>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    let Ok(object) = timeout(MOMENT, await_condition(api, name, condition)).await else {
        panic!("{name}: {what}: not within {MOMENT:?}");
    };
    object.unwrap_or_else(|error| panic!("{name}: {what}: {error:#}"))
}
