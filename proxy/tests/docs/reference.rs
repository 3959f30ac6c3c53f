//! The config reference in `docs/` is that of the code.

use sse_guard_proxy::config::KEYS;

#[test]
fn the_reference_explains_every_key_as_the_code_does() {
    let reference = include_str!("../../../docs/configuration.md");
    let mut missing = Vec::new();
    for key in KEYS {
        let default = match key.default {
            None => "none".into(),
            Some("") if key.kind.is_list() => "`[]`".into(),
            Some(default) => format!("`{default}`"),
        };
        let route = if key.per_route { "yes" } else { "" };
        let row = format!("| `{}` | {default} | {route} | {} |", key.name, key.help);
        if !reference.contains(&row) {
            missing.push(row);
        }
    }
    assert!(
        missing.is_empty(),
        "not in docs/configuration.md:\n{}",
        missing.join("\n")
    );
}
