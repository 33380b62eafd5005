//! Objects of the API server, of which some may be in a form that cannot be read.
//!
//! kube has a `DeserializeGuard` for this, which makes a tree of each object and reads a copy of that: with 20,000 image statuses that is most of
//! what a replica does before it is ready. Here the text is kept until it is read, so whatever can be read costs one pass.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::PartialObjectMeta};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

/// An object, or which one cannot be read and why. Comes from JSON text only.
#[derive(Clone, Debug)]
pub struct Readable<K>(pub Result<K, Invalid>);

/// An object that cannot be read.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// Whose it is.
    pub metadata: ObjectMeta,
    /// Why not.
    pub error: String,
}

impl<'de, K> Deserialize<'de> for Readable<K>
where
    K: DeserializeOwned + Resource,
{
    /// Fails if not even the metadata can be read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get())
            .map(Ok)
            .or_else(|error| {
                let PartialObjectMeta::<K> { metadata, .. } = serde_json::from_str(text.get())?;
                Ok(Err(Invalid { metadata, error: error.to_string() }))
            })
            .map(Self)
            .map_err(|error: serde_json::Error| serde::de::Error::custom(error))
    }
}

impl<K: Resource> Resource for Readable<K> {
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
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
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
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name, "uid": "1" }, "spec": { "hosts": hosts },
        })
    }

    #[test]
    fn one_object_that_cannot_be_read_leaves_the_rest_of_the_list() {
        let items = [registry("good", &json!(["registry.corp"])), registry("bad", &json!("registry.corp"))];
        let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }).to_string();
        let list: ObjectList<Readable<Registry>> = serde_json::from_str(&list).unwrap();
        let [good, bad] = &list.items[..] else { panic!("{list:?}") };
        assert_eq!(good.0.as_ref().unwrap().spec.hosts, ["registry.corp"]);
        let invalid = bad.0.as_ref().unwrap_err();
        assert!(invalid.error.starts_with("invalid type: string \"registry.corp\", expected a sequence"), "{}", invalid.error);
        assert_eq!((bad.meta().name.as_deref(), good.meta().name.as_deref()), (Some("bad"), Some("good")));
    }

    #[test]
    fn a_watch_brings_both() {
        for (hosts, read) in [(json!(["registry.corp"]), true), (json!(7), false)] {
            // In this order, in which the API server writes it.
            let line = format!(r#"{{"type":"MODIFIED","object":{}}}"#, registry("one", &hosts));
            let Ok(WatchEvent::Modified(object)) = serde_json::from_str::<WatchEvent<Readable<Registry>>>(&line) else { panic!("{line}") };
            assert_eq!((object.0.is_ok(), object.meta().name.as_deref()), (read, Some("one")));
        }
    }

    #[test]
    fn what_has_no_metadata_that_can_be_read_is_an_error() {
        let error = serde_json::from_str::<Readable<Registry>>(r#"{"metadata": 7}"#).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: integer `7`"), "{error}");
    }
}
