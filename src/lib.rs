//! Lazaretto keeps pods from starting while their container images are in quarantine or not compliant, and says why.
//!
//! The modules stand in three rings, and an inner ring never names an outer one:
//!
//! 1. **pure**: values in, values out. No tokio, no client, no clock: the time is an argument.
//! 2. **waiting**: tokio, the Kubernetes client, reqwest, rustls. Decides nothing about images.
//! 3. **wiring**: the command line and [`serve`], which make the parts and join them.
//!
//! ```text
//!                      kube-apiserver
//!         watch |            | POST /validate?timeout=10s          ^ status, events, audit lines
//!               v            v                                     |
//!         +-----------+  +-----------+                       +-----------+
//!         |   watch   |  |  webhook  |                       | operator  |  (one leader)
//!         +-----------+  +-----------+                       +-----------+
//!     apply, delete |         | pod::images                        | polls, adopts, emits, collects
//!             reset v         v                                    v
//!         +-----------------------+  facts fresh?  +----------------------+   +----------+
//!         |     index (RwLock)    |<---------------|  lookups (flights)   |-->| registry |
//!         +-----------------------+  or a flight   +----------------------+   +----------+
//!                   | opinion                          | outcome
//!                   v                                  v
//!               verdict: the one place where not knowing becomes yes or no
//! ```

// ring 1: pure
pub mod access;
pub mod api;
pub mod counts;
pub mod debts;
pub mod facts;
pub mod history;
pub mod image;
pub mod index;
pub mod judgement;
pub mod keyring;
pub mod origin;
pub mod pattern;
pub mod pod;
pub mod policy;
pub mod review;
pub mod roots;
pub mod running;
pub mod sentence;
pub mod verdict;
pub mod whatif;

// ring 2: waiting
pub mod admin;
pub mod audit;
pub mod authority;
pub mod credentials;
pub mod flights;
pub mod gate;
pub mod lease;
pub mod line;
pub mod lookups;
pub mod memory;
pub mod metrics;
pub mod operator;
pub mod owners;
pub mod proof;
pub mod provider;
pub mod registry;
pub mod shutdown;
pub mod templates;
pub mod tls;
pub mod unread;
pub mod wallet;
pub mod watch;
pub mod webhook;
pub mod writer;

// ring 3: wiring
pub mod cli;
pub mod serve;
