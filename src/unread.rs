//! Objects of the API server as they came, read when they are needed.
//!
//! kube reads a whole page of a list before it hands out the first object, and asks for the next one only then; and its `DeserializeGuard`, which
//! lets one object that cannot be read pass, makes a tree of each and reads a copy of that. With 20,000 image statuses that is a good part of what a
//! replica does before it is ready. An [`Unread`] costs next to nothing to take apart from a page, and whoever needs it reads it in one pass,
//! while the next page is on its way.

use std::{borrow::Cow, fmt::Debug, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

/// An object of which only name and version are read. Comes from JSON text only.
#[derive(Clone, Debug)]
pub struct Unread<K> {
    /// Name and `resourceVersion`.
    metadata: ObjectMeta,
    text: Box<RawValue>,
    of: PhantomData<fn() -> K>,
}

/// An object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Its name.
    pub name: String,
    /// Why not.
    pub error: String,
}

impl<K: DeserializeOwned> Unread<K> {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not of this form.
    pub fn read(&self) -> Result<K, Invalid> {
        serde_json::from_str(self.text.get()).map_err(|error| Invalid { name: self.name().to_owned(), error: error.to_string() })
    }
}

impl<K> Unread<K> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

impl<'de, K> Deserialize<'de> for Unread<K> {
    /// Fails if not even the metadata can be read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            name: Option<String>,
            resource_version: Option<String>,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata: Metadata { name, resource_version } } = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { metadata: ObjectMeta { name, resource_version, ..ObjectMeta::default() }, text, of: PhantomData })
    }
}

impl<K: Resource> Resource for Unread<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;
    use crate::api::Registry;

    fn registry(name: &str, hosts: &serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name, "resourceVersion": "7" }, "spec": { "hosts": hosts },
        })
    }

    #[test]
    fn one_object_that_cannot_be_read_leaves_the_rest_of_the_list() {
        let items = [registry("good", &json!(["registry.corp"])), registry("bad", &json!("registry.corp"))];
        let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }).to_string();
        let list: ObjectList<Unread<Registry>> = serde_json::from_str(&list).unwrap();
        let [good, bad] = &list.items[..] else { panic!("{list:?}") };
        assert_eq!(good.read().unwrap().spec.hosts, ["registry.corp"]);
        let Invalid { name, error } = bad.read().unwrap_err();
        assert!(error.starts_with("invalid type: string \"registry.corp\", expected a sequence"), "{error}");
        assert_eq!((&*name, good.name(), good.meta().resource_version.as_deref()), ("bad", "good", Some("7")));
    }

    #[test]
    fn a_watch_brings_both() {
        for (hosts, read) in [(json!(["registry.corp"]), true), (json!(7), false)] {
            // In this order, in which the API server writes it.
            let line = format!(r#"{{"type":"MODIFIED","object":{}}}"#, registry("one", &hosts));
            let Ok(WatchEvent::Modified(object)) = serde_json::from_str::<WatchEvent<Unread<Registry>>>(&line) else { panic!("{line}") };
            assert_eq!((object.read().is_ok(), object.name()), (read, "one"));
        }
    }

    #[test]
    fn what_has_no_metadata_that_can_be_read_is_an_error() {
        let error = serde_json::from_str::<Unread<Registry>>(r#"{"metadata": 7}"#).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: integer `7`"), "{error}");
    }
}
