//! The dashboard: one page, embedded in the binary. It contains no secrets and gets its data from
//! the API, so the page itself needs no token.

use super::error;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};

/// Nothing from other origins, nothing inline, no markup built from strings, no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

#[rustfmt::skip] // One line each: it is a table.
const ASSETS: &[(&str, &str, &str)] = &[
    ("actions.js", SCRIPT, include_str!("page/actions.js")),
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("charts.js", SCRIPT, include_str!("page/charts.js")),
    ("details.js", SCRIPT, include_str!("page/details.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("ends.js", SCRIPT, include_str!("page/ends.js")),
    ("explain.js", SCRIPT, include_str!("page/explain.js")),
    ("export.js", SCRIPT, include_str!("page/export.js")),
    ("feed.js", SCRIPT, include_str!("page/feed.js")),
    ("format.js", SCRIPT, include_str!("page/format.js")),
    ("health.js", SCRIPT, include_str!("page/health.js")),
    ("history.js", SCRIPT, include_str!("page/history.js")),
    ("icon.svg", IMAGE, include_str!("page/icon.svg")),
    ("lists.js", SCRIPT, include_str!("page/lists.js")),
    ("overview.js", SCRIPT, include_str!("page/overview.js")),
    ("parts.css", STYLE, include_str!("page/parts.css")),
    ("rows.js", SCRIPT, include_str!("page/rows.js")),
    ("scale.js", SCRIPT, include_str!("page/scale.js")),
    ("streams.js", SCRIPT, include_str!("page/streams.js")),
    ("style.css", STYLE, include_str!("page/style.css")),
    ("tables.css", STYLE, include_str!("page/tables.css")),
];

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        // Parts of two versions do not fit together.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

pub(super) async fn page() -> Response {
    file(HTML, include_str!("page/index.html"))
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => file(kind, text),
        None => error::unknown().await.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_and_its_modules_ask_for_is_there() {
        let is_there = |name: &str| ASSETS.iter().any(|(known, ..)| *known == name);
        let mut asked = 0;
        for part in include_str!("page/index.html").split("\"assets/").skip(1) {
            let (name, _) = part.split_once('"').unwrap();
            assert!(is_there(name), "{name}");
            asked += 1;
        }
        for (module, _, text) in ASSETS {
            for part in text.split("from \"./").skip(1) {
                let (name, _) = part.split_once('"').unwrap();
                assert!(is_there(name), "{name} of {module}");
                asked += 1;
            }
        }
        assert!(asked > 20, "{asked}");
    }

    #[tokio::test]
    async fn page_lets_nothing_in_from_elsewhere_and_is_in_nobodys_frame() {
        let answers = [page().await, asset(Path("app.js".into())).await];
        for (answer, kind) in answers.iter().zip([HTML, SCRIPT]) {
            assert_eq!(answer.headers()[CONTENT_TYPE], kind);
            assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
            let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; "), "{policy}");
            assert!(policy.contains("; frame-ancestors 'none'; "), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
        }
        let none = asset(Path("app.ts".into())).await;
        assert_eq!(none.status(), axum::http::StatusCode::NOT_FOUND);
    }

    #[test]
    fn texts_of_others_get_into_the_page_as_texts_only() {
        for (module, _, text) in ASSETS {
            for danger in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "://",
            ] {
                let harmless = text
                    .replace("https?:\\/\\/", "")
                    .replace("http://www.w3.org", "");
                assert!(!harmless.contains(danger), "{danger} in {module}");
            }
        }
    }
}
