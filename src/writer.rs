//! Writes ImageStatus objects: on change only, by `replace` with `resourceVersion` over the pure merge of [`crate::history`].
//!
//! Any replica may write what its own look-up found. A lost race is another turn with the newer object, so the history of one image
//! has one writer at a time and no transition is written twice. Every call is bounded in time, and the turns are bounded in number.

mod call;

use std::collections::BTreeMap;

use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};

use self::call::Calls;
pub use self::call::{CALL_TIMEOUT, CallError, bounded};
use crate::{
    api::{ImageStatus, ImageStatusSpec, ImageStatusStatus},
    history::{self, Merged, Observation},
    image::Subject,
    index::FIRST_SEEN_IN,
    metrics::{Metrics, WriteEnd, Written},
    watch::SharedIndex,
};

/// Turns after which a write that keeps losing races is given up.
const TURNS: usize = 8;

/// How many ImageStatus objects there may be.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// First asked for in one namespace.
    pub per_namespace: usize,
}

/// Why something was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A cap.
    #[error("there are as many ImageStatus objects as the installation allows ({0}); raise the cap or let unused ones be collected")]
    Capped(&'static str),
    /// Somebody else wrote meanwhile, each time.
    #[error("others kept writing the object")]
    Conflict,
    /// Too many transitions wait for their audit lines.
    #[error("the last {} transitions still wait for their audit lines", crate::api::MAX_HISTORY)]
    Full,
    /// The API server refused or did not answer.
    #[error("{0}")]
    Api(String),
}

impl WriteError {
    /// The same for the metrics.
    #[must_use]
    pub const fn end(&self) -> WriteEnd {
        match self {
            Self::Capped(_) => WriteEnd::Capped,
            Self::Conflict => WriteEnd::Conflict,
            Self::Full => WriteEnd::Full,
            Self::Api(_) => WriteEnd::Failed,
        }
    }
}

impl From<CallError> for WriteError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Conflict => Self::Conflict,
            other => Self::Api(other.to_string()),
        }
    }
}

/// Writes ImageStatus objects.
#[derive(Clone, Debug)]
pub struct Writer {
    api: Api<ImageStatus>,
    index: SharedIndex,
    caps: Caps,
    metrics: Metrics,
    calls: Calls,
}

/// With no option of a write set.
static PLAINLY: PostParams = PostParams { dry_run: false, field_manager: None };

impl Writer {
    /// A writer with these caps.
    #[must_use]
    pub fn new(client: Client, index: SharedIndex, caps: Caps, metrics: Metrics) -> Self {
        Self { api: Api::all(client), index, caps, metrics, calls: Calls::default() }
    }

    /// Writes an observation down, and returns the object as it is then: what others decided meanwhile included.
    pub async fn record(&self, subject: &Subject, seen: &Observation, namespace: &str) -> Result<ImageStatus, WriteError> {
        self.record_within(self.caps, subject, seen, namespace).await
    }

    /// The same for what is adopted, which no namespace's cap may keep out: it runs already.
    pub async fn adopt(&self, subject: &Subject, seen: &Observation, namespace: &str) -> Result<ImageStatus, WriteError> {
        self.record_within(Caps { per_namespace: usize::MAX, ..self.caps }, subject, seen, namespace).await
    }

    async fn record_within(&self, caps: Caps, subject: &Subject, seen: &Observation, namespace: &str) -> Result<ImageStatus, WriteError> {
        let written = self.try_record(caps, subject, seen, namespace).await;
        match &written {
            Ok((_, true)) => self.metrics.wrote(Written::ImageStatus, WriteEnd::Done),
            Ok((_, false)) => {}
            Err(error) => self.metrics.wrote(Written::ImageStatus, error.end()),
        }
        written.map(|(object, _)| object)
    }

    async fn try_record(
        &self,
        caps: Caps,
        subject: &Subject,
        seen: &Observation,
        namespace: &str,
    ) -> Result<(ImageStatus, bool), WriteError> {
        let mut object = match self.find(subject).await? {
            Some(object) => object,
            None => self.create(caps, subject, namespace).await?,
        };
        for _ in 0..TURNS {
            let status = match history::merge(&object, seen, jiff::Timestamp::now()) {
                Merged::Unchanged => return Ok((object, false)),
                Merged::Full => return Err(WriteError::Full),
                Merged::Changed(status) => status,
            };
            let name = object.metadata.name.clone().unwrap_or_default();
            object.status = Some(*status);
            match self.calls.make(|| self.api.replace_status(&name, &PLAINLY, &object)).await {
                Ok(object) => return Ok((object, true)),
                Err(CallError::Conflict) => object = self.calls.make(|| self.api.get(&name)).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Conflict)
    }

    async fn find(&self, subject: &Subject) -> Result<Option<ImageStatus>, WriteError> {
        let name = {
            let index = self.index.read();
            let strictest = index.image(subject).map(|known| known.name.clone());
            strictest.or_else(|| index.names_of(subject).next().map(str::to_owned)).unwrap_or_else(|| subject.object_name())
        };
        match self.calls.make(|| self.api.get(&name)).await {
            Ok(object) if object.spec.subject == subject.to_string() => Ok(Some(object)),
            Ok(_) | Err(CallError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&self, caps: Caps, subject: &Subject, namespace: &str) -> Result<ImageStatus, WriteError> {
        {
            let index = self.index.read();
            if index.image_count() >= caps.total {
                return Err(WriteError::Capped("in all"));
            }
            if index.first_seen_in(namespace) >= caps.per_namespace {
                return Err(WriteError::Capped("first asked for in this namespace"));
            }
        }
        let base = subject.object_name();
        // The name is only a handle: where somebody holds it for another subject, the next one will do.
        for turn in 0..4 {
            let name = if turn == 0 { base.clone() } else { format!("{}-{turn}", &base[..base.len().min(60)]) };
            let mut object = ImageStatus::new(&name, ImageStatusSpec { subject: subject.to_string(), quarantine: None });
            if !namespace.is_empty() {
                object.metadata.labels = Some(BTreeMap::from([(FIRST_SEEN_IN.to_owned(), namespace.to_owned())]));
            }
            match self.calls.make(|| self.api.create(&PLAINLY, &object)).await {
                Ok(object) => return Ok(object),
                Err(CallError::AlreadyExists) => {
                    let there = self.calls.make(|| self.api.get(&name)).await?;
                    if there.spec.subject == subject.to_string() {
                        return Ok(there);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Conflict)
    }

    /// Changes the status of an object by a pure function of what is there, which may be called again with a newer object.
    /// `None` from the function: nothing to write.
    pub async fn change(
        &self,
        name: &str,
        change: impl Fn(&ImageStatus) -> Option<ImageStatusStatus>,
    ) -> Result<Option<ImageStatus>, WriteError> {
        let result = self.try_change(name, change).await;
        match &result {
            Ok(Some(_)) => self.metrics.wrote(Written::ImageStatus, WriteEnd::Done),
            Ok(None) => {}
            Err(error) => self.metrics.wrote(Written::ImageStatus, error.end()),
        }
        result
    }

    async fn try_change(
        &self,
        name: &str,
        change: impl Fn(&ImageStatus) -> Option<ImageStatusStatus>,
    ) -> Result<Option<ImageStatus>, WriteError> {
        for _ in 0..TURNS {
            let mut object = match self.calls.make(|| self.api.get(name)).await {
                Ok(object) => object,
                Err(CallError::NotFound) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let Some(status) = change(&object) else { return Ok(None) };
            object.status = Some(status);
            match self.calls.make(|| self.api.replace_status(name, &PLAINLY, &object)).await {
                Ok(object) => return Ok(Some(object)),
                Err(CallError::Conflict) => {}
                Err(CallError::NotFound) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Conflict)
    }

    /// The object as it is now.
    pub async fn get(&self, name: &str) -> Result<Option<ImageStatus>, WriteError> {
        match self.calls.make(|| self.api.get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(CallError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an object that is still as it was when it was read.
    pub async fn delete(&self, object: &ImageStatus) -> Result<(), WriteError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let unchanged = Preconditions { uid: object.metadata.uid.clone(), resource_version: object.metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
        match self.calls.make(|| self.api.delete(&name, &params)).await {
            Ok(_) | Err(CallError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The field manager of everything that Lazaretto applies.
pub const FIELD_MANAGER: &str = "lazaretto";

/// Applies the status of a resource that people write: server-side, with the field manager `lazaretto`.
pub async fn apply_status<K>(
    api: &Api<K>,
    name: &str,
    status: serde_json::Value,
    manager: &str,
    metrics: &Metrics,
) -> Result<(), WriteError>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let body = serde_json::json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
    let patched = bounded(api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(&body))).await;
    match patched {
        Ok(_) => {
            metrics.wrote(Written::Status, WriteEnd::Done);
            Ok(())
        }
        Err(CallError::NotFound) => Ok(()),
        Err(error) => {
            metrics.wrote(Written::Status, WriteEnd::Failed);
            Err(error.into())
        }
    }
}
