//! The platforms of the cluster's nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::Index;
use crate::proof::{Platforms, platforms};

/// The nodes, by name, each with its platform where it says one.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    held: HashMap<String, Option<String>>,
    /// All of them are held.
    all: bool,
}

impl Nodes {
    /// Says whether that is news. A node tells of itself often, and of its platform once.
    pub(super) fn put(&mut self, name: &str, platform: Option<String>) -> bool {
        if self.held.get(name) == Some(&platform) {
            return false;
        }
        self.held.insert(name.to_owned(), platform);
        true
    }

    pub(super) fn take(&mut self, name: &str) -> bool {
        self.held.remove(name).is_some()
    }

    pub(super) fn know(&mut self, all: bool) -> bool {
        let changed = self.all != all;
        self.all = all;
        changed
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    pub(super) fn platforms(&self) -> Platforms {
        if self.all { Platforms::of(self.held.values().map(Option::as_deref)) } else { Platforms::default() }
    }
}

impl Index {
    /// A node is there, with these labels. Says whether the platforms of nodes have changed by that.
    pub fn apply_node(&mut self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.nodes.put(name, platforms::of_node(labels)) && self.rebind()
    }

    /// A node is gone. Says whether the platforms of nodes have changed by that.
    pub fn delete_node(&mut self, name: &str) -> bool {
        self.nodes.take(name) && self.rebind()
    }

    /// Whether all nodes are known by now: only then their platforms are. Says whether these have changed by that.
    pub fn know_nodes(&mut self, all: bool) -> bool {
        self.nodes.know(all) && self.rebind()
    }

    /// The names of all nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.names()
    }

    fn rebind(&mut self) -> bool {
        let platforms = self.nodes.platforms();
        if platforms == self.rules.platforms {
            return false;
        }
        let rules = Arc::make_mut(&mut self.rules);
        rules.platforms = platforms;
        rules.bind(&self.roots, |_| true);
        true
    }
}
