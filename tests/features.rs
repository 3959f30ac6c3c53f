//! `cargo test` passes with any set of features: a test that needs one names it in `Cargo.toml`, where cargo does not
//! look for it otherwise.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

/// What only a test with this feature may contain.
const NEEDS: &[(&str, &str)] = &[
    ("mod support;", "proxy"),
    ("CARGO_BIN_EXE_sse-guard", "proxy"),
    ("sse_guard::proxy", "proxy"),
    ("sse_guard::serve", "serve"),
    ("use axum::", "axum"),
];

/// The features that a test requires, by its section of the manifest.
fn required<'a>(manifest: &'a str, name: &str) -> Option<&'a str> {
    manifest
        .split("[[test]]\n")
        .filter_map(|section| section.split("\n\n").next())
        .find(|section| section.contains(&format!("name = \"{name}\"")))
        .and_then(|section| {
            section
                .lines()
                .find(|line| line.starts_with("required-features"))
        })
}

#[test]
fn every_test_names_the_features_that_it_needs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (mut missing, mut count) = (Vec::new(), 0);
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "rs") || name == "features" {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for (text, feature) in NEEDS {
            if !source.contains(text) {
                continue;
            }
            count += 1;
            let required = required(&manifest, &name).unwrap_or_default();
            // The proxy's feature includes the others.
            if !required.contains(&format!("\"{feature}\"")) && !required.contains("\"proxy\"") {
                missing.push(format!("{name}: {feature}, for {text:?}"));
            }
        }
    }
    assert!(count > 40, "only {count} needs were found");
    assert!(missing.is_empty(), "{missing:#?}");
}
