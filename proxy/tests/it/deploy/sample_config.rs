//! The sample config has every key with its default.

use super::*;

/// What `check` prints, without the places that values came from.
fn checked(flags: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .args(["check", "--upstream-url", URL])
        .args(flags)
        .output()
        .unwrap();
    let mistakes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{mistakes}");
    let text = String::from_utf8(output.stdout).unwrap();
    let values = text.lines().map(|line| line.split(" # ").next().unwrap());
    values.map(|value| value.trim_end().to_owned()).collect()
}

/// The key and the value that a line of the sample sets or, behind a `#`, would set.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let is_key = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
    key.bytes().all(is_key).then_some((key, value))
}

/// The keys of the sample, with the comment above each.
fn explained() -> Vec<(String, String)> {
    let (mut table, mut comment, mut keys) = (String::new(), String::new(), Vec::new());
    // From the first route on keys come again.
    for line in SAMPLE.lines().take_while(|line| *line != "# [[route]]") {
        if let Some((leaf, _)) = setting(line) {
            keys.push((format!("{table}{leaf}"), comment.trim().to_owned()));
        } else if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
            continue;
        }
        comment.clear();
    }
    keys
}

#[test]
fn sample_config_sets_every_key_to_its_default() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sse-guard.toml");
    assert_eq!(checked(&["--config", sample]), checked(&[]));
}

#[test]
fn sample_config_explains_every_key_as_the_code_does() {
    let explained = explained();
    let names: Vec<_> = explained.iter().map(|(name, _)| name.as_str()).collect();
    let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names, keys);
    for (key, (_, comment)) in KEYS.iter().zip(&explained) {
        assert!(comment.starts_with(key.help), "{}: {comment}", key.name);
        assert_eq!(
            comment.ends_with("Per route."),
            key.per_route,
            "{}",
            key.name
        );
    }
}

#[test]
fn commented_keys_of_the_sample_config_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.toml");
    let uncommented: Vec<_> = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code == "[[route]]" || setting(line).is_some() => code,
            _ => line,
        })
        .collect();
    std::fs::write(&path, uncommented.join("\n")).unwrap();
    let printed = checked(&["--config", path.to_str().unwrap()]);
    for line in ["threads = 2", "[[route]]", "path = \"/v1\""] {
        assert!(
            printed.iter().any(|other| other == line),
            "{line}\n{printed:#?}"
        );
    }
}
