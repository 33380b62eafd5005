//! Which images of an index a cluster's nodes may run.
//!
//! A container runtime goes by the platform that the index names for an image, and not by what is inside: so does this. Of variants
//! nothing is known here (nodes do not tell theirs), so an image counts for each variant of its architecture. Where runtimes are more
//! lenient than the specification the more lenient one counts: containerd takes other spellings (`x86_64`), an image without a platform, and one for
//! the older architecture that it can run (`arm` on `arm64`, `386` on `amd64`) where nothing fits its own: a variant or a feature that is not the
//! node's is enough for that, and whoever pushes an index writes them, so the older ones always count. What is not understood counts for every node.
//!
//! The platforms of nodes are unknown until all nodes were listed, while they cannot be listed, where there are no nodes, where one does not
//! say its platform, or where there are too many: then every image of an index has to be proven.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::api::MAX_PLATFORMS;

/// In place of platforms: all of them.
pub const ALL: &str = "*";
/// Labels of nodes, which every kubelet sets.
const OS: &str = "kubernetes.io/os";
const ARCHITECTURE: &str = "kubernetes.io/arch";
/// Characters of a platform in evidence. Every one that is understood is shorter.
const LONGEST: usize = 24;

const SYSTEMS: [&str; 8] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "illumos"];
const ARCHITECTURES: [&str; 15] = [
    "amd64", "arm64", "386", "arm", "ppc64le", "s390x", "riscv64", "loong64", "ppc64", "mips", "mipsle", "mips64", "mips64le", "sparc64",
    "wasm",
];
/// An architecture, and the older one that containerd takes where it finds none for it.
const ALSO_RUNS: [(&str, &str); 2] = [("arm64", "arm"), ("amd64", "386")];

/// The platforms of a cluster's nodes, as `os/architecture`; unknown unless said. Clones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platforms(Option<Arc<BTreeSet<String>>>);

/// The platform of a node by its labels.
#[must_use]
pub fn of_node(labels: &BTreeMap<String, String>) -> Option<String> {
    let Known { os, architecture } = read(&format!("{}/{}", labels.get(OS)?, labels.get(ARCHITECTURE)?))?;
    Some(format!("{os}/{architecture}"))
}

/// The labels of a node of a platform, `os/architecture`.
#[must_use]
pub fn labels(platform: &str) -> BTreeMap<String, String> {
    let (os, architecture) = platform.split_once('/').unwrap_or((platform, ""));
    [(OS, os), (ARCHITECTURE, architecture)].map(|(label, value)| (label.to_owned(), value.to_owned())).into()
}

/// A platform as evidence names it: short and plain, whatever an index says.
#[must_use]
pub fn label(platform: &str) -> String {
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || "-._/".contains(*letter);
    let label: String = platform.chars().filter(plain).take(LONGEST).collect();
    if label.is_empty() { "any".to_owned() } else { label }
}

impl Platforms {
    /// The platforms of nodes: none of one that does not say.
    #[must_use]
    pub fn of<'a>(nodes: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut all = BTreeSet::new();
        for node in nodes {
            let Some(node) = node.filter(|node| read(node).is_some()) else { return Self(None) };
            if !all.contains(node) {
                all.insert(node.to_owned());
            }
            if all.len() > MAX_PLATFORMS {
                return Self(None);
            }
        }
        Self(Some(Arc::new(all)).filter(|all| !all.is_empty()))
    }

    /// As evidence names them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.as_ref().map_or_else(|| vec![ALL.to_owned()], |known| known.iter().cloned().collect())
    }

    /// Whether the images for all of them were looked at.
    #[must_use]
    pub fn are_among(&self, looked_inside: &[String]) -> bool {
        let all = looked_inside.iter().any(|looked| looked == ALL);
        all || self.0.as_ref().is_some_and(|known| known.iter().all(|platform| looked_inside.contains(platform)))
    }

    /// Which of the images with these platforms may run on some node: of each, in the same order.
    #[must_use]
    pub fn choose<'a>(&self, images: impl Iterator<Item = &'a str>) -> SmallVec<[bool; 16]> {
        let Some(nodes) = &self.0 else { return images.map(|_| true).collect() };
        let images: SmallVec<[Option<Known<'_>>; 16]> = images.map(read).collect();
        let mut chosen: SmallVec<[bool; 16]> = images.iter().map(Option::is_none).collect();
        for node in nodes.iter().filter_map(|node| read(node)) {
            let older = ALSO_RUNS.iter().find(|(architecture, _)| *architecture == node.architecture);
            let older = older.map(|(_, architecture)| Known { architecture, ..node });
            for (chosen, image) in chosen.iter_mut().zip(&images) {
                *chosen |= image.is_some_and(|image| image == node || Some(image) == older);
            }
        }
        chosen
    }
}

/// A platform that is understood, in the one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known<'a> {
    os: &'a str,
    architecture: &'a str,
}

/// Reads `os/architecture[/variant]`, with the number of an image that is not the first of its platform after it.
fn read(platform: &str) -> Option<Known<'static>> {
    let platform = platform.split('+').next().unwrap_or_default();
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next()?, parts.next()?);
    let is = |text: &str, names: &[&'static str]| names.iter().find(|name| name.eq_ignore_ascii_case(text)).copied();
    let spelt = |text: &str| -> Option<&'static str> {
        let spellings: [(&[&str], &'static str); 4] =
            [(&["x86_64", "x86-64"], "amd64"), (&["aarch64"], "arm64"), (&["armhf", "armel"], "arm"), (&["i386"], "386")];
        let other =
            || spellings.iter().find(|(others, _)| others.iter().any(|other| other.eq_ignore_ascii_case(text))).map(|(_, name)| *name);
        is(text, &ARCHITECTURES).or_else(other)
    };
    let os = is(os, &SYSTEMS).or_else(|| os.eq_ignore_ascii_case("macos").then_some("darwin"))?;
    Some(Known { os, architecture: spelt(architecture)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(nodes: &[&str], images: &[&str]) -> Vec<bool> {
        Platforms::of(nodes.iter().copied().map(Some)).choose(images.iter().copied()).to_vec()
    }

    #[test]
    fn an_image_counts_where_a_node_may_run_it() {
        let (yes, no) = (true, false);
        let cases: [(&[&str], &[&str], &[bool]); 14] = [
            (&["linux/amd64"], &["linux/amd64", "linux/arm64", "windows/amd64"], &[yes, no, no]),
            (&["linux/amd64", "linux/arm64"], &["linux/amd64", "linux/arm64/v8", "linux/s390x"], &[yes, yes, no]),
            // Variants are not told by nodes.
            (&["linux/arm"], &["linux/arm/v6", "linux/arm/v7", "linux/arm64"], &[yes, yes, no]),
            // Nobody knows what these are.
            (&["linux/amd64"], &["any", "amd64", "linux/v7", "plan9/amd64", "*", "linux"], &[yes; 6]),
            // Runtimes read other spellings.
            (&["linux/amd64"], &["Linux/X86_64", "linux/x86-64", "linux/aarch64"], &[yes, yes, no]),
            (&["linux/arm64"], &["linux/aarch64", "linux/amd64"], &[yes, no]),
            // And take an older architecture, where no other fits; a variant that no node has fits none.
            (&["linux/arm64"], &["linux/arm/v7", "linux/amd64"], &[yes, no]),
            (&["linux/arm64"], &["linux/arm64/v9", "linux/arm/v7"], &[yes, yes]),
            (&["linux/amd64"], &["linux/386", "linux/arm64"], &[yes, no]),
            (&["linux/amd64"], &["linux/i386", "linux/amd64/v9"], &[yes, yes]),
            (&["linux/amd64", "linux/386"], &["linux/386", "linux/amd64"], &[yes, yes]),
            // Each image of a platform.
            (&["windows/amd64"], &["windows/amd64", "windows/amd64+2", "linux/amd64"], &[yes, yes, no]),
            (&["linux/s390x"], &["linux/amd64"], &[no]),
            (&[], &["linux/amd64", "windows/arm"], &[yes, yes]),
        ];
        for (nodes, images, expected) in cases {
            assert_eq!(chosen(nodes, images), expected, "{nodes:?} {images:?}");
        }
    }

    #[test]
    fn platforms_are_unknown_where_a_node_does_not_say_or_there_are_too_many() {
        let unknown = Platforms::default();
        assert_eq!(Platforms::of([Some("linux/amd64"), None]), unknown);
        assert_eq!(Platforms::of([Some("linux/amd64"), Some("linux/pdp11")]), unknown);
        assert_eq!(Platforms::of([]), unknown);
        let many = |most: usize| {
            Platforms::of(
                ARCHITECTURES[..most].iter().map(|name| format!("linux/{name}")).collect::<Vec<_>>().iter().map(|name| Some(&**name)),
            )
        };
        assert_eq!(many(MAX_PLATFORMS).names().len(), MAX_PLATFORMS);
        assert_eq!(many(MAX_PLATFORMS + 1), unknown);
        assert_eq!(of_node(&labels("linux/amd64")).as_deref(), Some("linux/amd64"));
        assert_eq!(of_node(&labels("Linux/x86_64")).as_deref(), Some("linux/amd64"), "as every other is written");
        assert_eq!(of_node(&labels("linux")), None);
        assert_eq!(of_node(&BTreeMap::from([(OS.to_owned(), "linux".to_owned())])), None);
    }

    #[test]
    fn what_was_looked_at_does_for_those_platforms_and_no_others() {
        let both = Platforms::of([Some("linux/amd64"), Some("linux/arm64")]);
        let looked = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(both.are_among(&looked(&["linux/amd64", "linux/arm64", "linux/s390x"])) && both.are_among(&looked(&["*"])));
        assert!(!both.are_among(&looked(&["linux/amd64"])) && !both.are_among(&[]));
        let unknown = Platforms::default();
        assert!(unknown.are_among(&looked(&["*"])) && !unknown.are_among(&both.names()) && !unknown.are_among(&[]));
    }

    #[test]
    fn a_platform_is_named_shortly_whatever_an_index_says() {
        assert_eq!(label("linux/arm/v7"), "linux/arm/v7");
        assert_eq!(label("linux/amd64\u{202e}, signed+9"), "linux/amd64signed9");
        assert_eq!(label(&"x".repeat(100)).len(), LONGEST);
        assert_eq!(label("\u{202e}"), "any");
    }
}
