//! The documentation agrees with the code, and its links lead somewhere.

use sse_guard::EndReason;
use sse_guard::connection_limit::RejectReason;
use sse_guard::metrics::Unguarded;
use sse_guard_proxy::config::KEYS;
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Of the repository.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|its| its == extension)
}

fn markdown_in(folder: &str) -> Result<Vec<PathBuf>> {
    let mut paths = entries(&root().join(folder))?;
    paths.retain(|path| has_extension(path, "md"));
    Ok(paths)
}

/// All pages, with the text of each.
fn pages() -> Result<Vec<(PathBuf, String)>> {
    let names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let mut paths: Vec<_> = names.iter().map(|name| root().join(name)).collect();
    paths.extend(markdown_in("docs")?);
    // The published package has no such folder.
    if root().join("deploy").exists() {
        paths.extend(markdown_in("deploy")?);
    }
    let mut pages = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        pages.push((path, text));
    }
    Ok(pages)
}

fn page(name: &str) -> Result<String> {
    Ok(fs::read_to_string(root().join("docs").join(name))?)
}

/// Lines outside of fenced blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let outside = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_fence && !is_code
    });
    outside.collect()
}

/// Fenced blocks in a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        match &mut current {
            Some(block) if line.starts_with("```") => blocks.push(std::mem::take(block)),
            Some(block) => *block += &format!("{line}\n"),
            None => {}
        }
        if let Some(opening) = line.strip_prefix("```") {
            let is_opening = current.is_none() && opening == language;
            current = is_opening.then(String::new);
        }
    }
    blocks
}

/// The anchors of a page, by GitHub's rules.
fn anchors(text: &str) -> HashSet<String> {
    let headings = prose(text).into_iter().filter_map(|line| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then(|| heading.trim().to_owned())
    });
    let slug = |heading: String| {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(slug).collect()
}

/// What the links and images of a page point to.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        let targets = line.split("](").skip(1);
        links.extend(targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    links
}

fn problem_of(link: &str, page: &Path, text: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = page.parent()?.join(file);
    if !file.is_empty() && !path.exists() {
        return Some("no such file".into());
    }
    let target = match file {
        "" => text.to_owned(),
        _ if anchor.is_empty() => return None,
        _ => fs::read_to_string(&path).ok()?,
    };
    (!anchors(&target).contains(anchor)).then(|| "no such heading".into())
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() -> Result {
    let mut problems = Vec::new();
    let mut checked = 0;
    for (path, text) in pages()? {
        for link in links(&text) {
            let is_other = link.contains("://") || link.starts_with("mailto:");
            // What the published package leaves out.
            let is_left_out = !root().join("deploy").exists()
                && (link.contains("deploy/") || link.ends_with(".png"));
            if is_other || is_left_out {
                continue;
            }
            checked += 1;
            if let Some(problem) = problem_of(&link, &path, &text) {
                problems.push(format!("{}: {link}: {problem}", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 50, "only {checked} links were found");
    Ok(())
}

#[test]
fn every_page_is_listed_in_the_readme() -> Result {
    let readme = fs::read_to_string(root().join("README.md"))?;
    for path in markdown_in("docs")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        assert!(readme.contains(&format!("(docs/{name})")), "{name}");
    }
    Ok(())
}

#[test]
fn every_reason_is_in_the_troubleshooting() -> Result {
    let text = page("troubleshooting.md")?;
    for &reason in EndReason::ALL {
        assert!(text.contains(&format!("\n### `{reason}`\n")), "{reason}");
    }
    let rejections = RejectReason::ALL.iter().map(|reason| reason.as_str());
    let unguarded = Unguarded::ALL.iter().map(|reason| reason.as_str());
    for reason in rejections.chain(unguarded) {
        assert!(text.contains(&format!("\n| `{reason}` |")), "{reason}");
    }
    Ok(())
}

#[test]
fn each_end_reason_has_a_cause_and_a_remedy() -> Result {
    let text = page("troubleshooting.md")?;
    for &reason in EndReason::ALL {
        let heading = format!("\n### `{reason}`\n");
        let section = text.split(&heading).nth(1).ok_or("no section")?;
        let section = section.split("\n##").next().unwrap_or_default();
        assert!(section.contains("**Cause**: "), "{reason}");
        assert!(section.contains("**Remedy**: "), "{reason}");
    }
    Ok(())
}

/// Words in backticks that look like the key of a table that the config has.
fn keys_named_in(text: &str) -> Vec<String> {
    let tables: HashSet<_> = KEYS
        .iter()
        .filter_map(|key| key.table_and_leaf().0)
        .collect();
    let lines = prose(text).join("\n");
    let quoted = lines.split('`').skip(1).step_by(2);
    let names = quoted.map(|quoted| quoted.split(" = ").next().unwrap_or(quoted).to_owned());
    let is_key = |name: &String| {
        let Some((table, leaf)) = name.rsplit_once('.') else {
            return false;
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_table = tables.contains(name.as_str());
        tables.contains(table) && !is_table && !leaf.is_empty() && leaf.chars().all(is_name)
    };
    names.filter(is_key).collect()
}

#[test]
fn every_config_key_that_the_docs_name_exists() -> Result {
    let mut unknown = Vec::new();
    let mut named = 0;
    for (path, text) in pages()? {
        // It names former keys, too.
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        for name in keys_named_in(&text) {
            named += 1;
            if !KEYS.iter().any(|key| key.name == name) {
                unknown.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    assert!(named > 100, "only {named} keys were found");
    Ok(())
}

fn sources(folder: &Path, all: &mut String) -> Result {
    for path in entries(folder)? {
        if path.is_dir() {
            sources(&path, all)?;
        } else if has_extension(&path, "rs") {
            *all += &fs::read_to_string(&path)?;
        }
    }
    Ok(())
}

#[test]
fn every_metric_that_the_docs_name_exists() -> Result {
    let mut all = String::new();
    for folder in ["src", "proxy/src"] {
        sources(&root().join(folder), &mut all)?;
    }
    let mut named = 0;
    for (path, text) in pages()? {
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        for (at, _) in text.match_indices("sse_guard_") {
            let name: String = text[at..].chars().take_while(|c| is_name(*c)).collect();
            named += 1;
            assert!(
                all.contains(&format!("\"{name}\"")),
                "{}: {name}",
                path.display()
            );
        }
    }
    assert!(named > 20, "only {named} metrics were found");
    Ok(())
}

#[test]
fn every_config_example_is_valid() -> Result {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sse-guard.toml");
    // The files that examples name.
    let pair = rcgen::generate_simple_self_signed(["app.example".to_owned()])?;
    for name in ["app.pem", "clients.pem"] {
        fs::write(folder.path().join(name), pair.cert.pem())?;
    }
    let key = pair.signing_key.serialize_pem();
    fs::write(folder.path().join("app.key"), key)?;
    let at = format!("\"{}/", folder.path().display());
    let mut checked = 0;
    for (path, text) in pages()? {
        for block in blocks(&text, "toml") {
            // Of a Cargo.toml.
            if block.starts_with("[dependencies]") {
                continue;
            }
            fs::write(&file, block.replace("\"/etc/sse-guard/", &at))?;
            let mut check = Command::new(env!("CARGO_BIN_EXE_sse-guard"));
            check.env_clear().arg("check").arg("--config").arg(&file);
            if !block.contains("[upstream]") {
                check.env("SSE_GUARD_UPSTREAM_URL", "http://127.0.0.1:3000");
            }
            let output = check.output()?;
            checked += 1;
            assert!(
                output.status.success(),
                "{}:\n{block}\n{}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(checked > 5, "only {checked} examples were found");
    Ok(())
}
