//! rabe protects nothing: whatever seals, opens, issues or carries must not link it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The packages of the workspace with what each depends on, by the name of the package.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter().map(name).collect();
            (name(package), dependencies)
        })
        .collect()
}

#[test]
fn the_crates_that_protect_link_neither_rabe_nor_the_evaluation() {
    let packages = dependencies();
    for name in ["smqtt-core", "smqtt-client", "smqtt-keysvc"] {
        for banned in ["rabe", "rabe-bn", "smqtt-bench"] {
            assert!(!packages[name].contains(banned), "{name} depends on {banned}");
        }
    }
    let direct = |of: &str| -> Vec<&str> {
        packages.iter().filter(|(_, all)| all.contains(of)).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(direct("rabe"), ["smqtt-bench"]);
    assert_eq!(direct("smqtt-bench"), ["smqtt"], "the command line alone reaches the evaluation");
}

/// In the package that has broker and command line, one file names the evaluation.
#[test]
fn one_command_alone_names_the_evaluation() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let (mut directories, mut naming) = (vec![source.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if std::fs::read_to_string(&path)
                .is_ok_and(|t| t.contains("smqtt_bench") || t.contains("rabe::"))
            {
                naming.push(path.strip_prefix(&source).unwrap().to_owned());
            }
        }
    }
    assert_eq!(naming, [std::path::Path::new("cli/bench.rs")]);
}
