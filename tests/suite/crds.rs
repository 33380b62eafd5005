//! The definitions that are committed are those that the types generate.

use std::{collections::BTreeSet, fs, path::Path};

use lazaretto::{api, cli};

/// Where they are committed: for people, and for the chart.
const DIRECTORIES: [&str; 2] = ["crds", "charts/lazaretto/files/crds"];

#[test]
fn committed_definitions_are_those_of_the_types() {
    for directory in DIRECTORIES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut expected = BTreeSet::new();
        for definition in api::definitions() {
            let name = cli::file_name(&definition);
            let committed = fs::read_to_string(path.join(&name)).unwrap_or_default();
            assert!(
                committed == cli::yaml(&definition).unwrap(),
                "{directory}/{name} is not what the types generate; run: cargo run -- crds --directory {}",
                DIRECTORIES.join(" --directory ")
            );
            expected.insert(name);
        }
        let there: BTreeSet<String> = fs::read_dir(&path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(there, expected, "{directory} holds a definition that no type generates");
    }
}
