//! Web origins.

use http::Uri;

use super::echo;

/// Origins that may read responses sent in place of the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Origins that the upstream has allowed.
    Upstream,
    /// Any.
    Any,
    /// These, as browsers write them; at least one.
    List(Vec<String>),
    /// None.
    Off,
}

pub(super) fn origins(items: &[&str]) -> Result<Origins, String> {
    match items {
        [] => Err("lists no origin; write \"off\" for none".to_owned()),
        ["upstream"] => Ok(Origins::Upstream),
        ["*"] => Ok(Origins::Any),
        items => {
            let items = items.iter().map(|item| origin(item));
            items.collect::<Result<_, _>>().map(Origins::List)
        }
    }
}

/// As browsers write it ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454#section-6.2)): in lower case,
/// without a port that is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    const RIGHT: &str = "write one such as \"https://app.example\" or \"http://localhost:5173\"";
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Ok(text);
    }
    if ["upstream", "*", "off"].contains(&text.as_str()) {
        return Err(format!("{} cannot be combined with others", echo(&text)));
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err(format!("{} is not an origin; {RIGHT}", echo(&text)));
    };
    if authority.contains(['/', '?', '#', '@', '*']) {
        return Err(format!(
            "an origin consists of scheme, host and port, without a path or a wildcard; {RIGHT}"
        ));
    }
    let parsed: Uri = text
        .parse()
        .map_err(|_| format!("is not an origin; {RIGHT}"))?;
    if parsed.host().is_none_or(str::is_empty) {
        return Err(format!("has no host; {RIGHT}"));
    }
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(text),
    };
    Ok(text.strip_suffix(port).unwrap_or(&text).to_owned())
}
