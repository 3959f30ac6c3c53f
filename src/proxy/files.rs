//! Open files: a stream takes two, its client's socket and its upstream's.

use super::config::Config;

/// Raises the limit as far as this process may, and warns if the config allows more streams than
/// that is room for.
pub(super) fn raise_limit(config: &Config) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => {
            if let Some(warning) = too_few(config, files) {
                tracing::warn!("{warning}");
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files can not be raised"),
    }
}

fn too_few(config: &Config, files: u64) -> Option<String> {
    let own = config.routes.iter().filter(|route| route.own_limits);
    let shared = config.routes.iter().find(|route| !route.own_limits);
    let totals = own.chain(shared).map(|route| route.settings.limit.total);
    // Without a limit there is nothing to compare with.
    let streams: u64 = totals
        .map(|total| total.map(|n| u64::from(n.get())))
        .sum::<Option<_>>()?;
    (2 * streams > files).then(|| {
        format!(
            "open files are limited to {files}, and limit.total allows {streams} streams, which \
             take two each: raise the limit (ulimit -Hn), else clients beyond some {} wait until \
             others have gone",
            files / 2
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::from_file;
    use super::*;

    fn warning(text: &str, files: u64) -> Option<String> {
        let text = format!("upstream.url = 'http://app'\n{text}");
        too_few(&from_file(&text).unwrap().config, files)
    }

    #[test]
    fn two_files_for_each_stream_that_is_allowed() {
        assert_eq!(warning("limit.total = 512", 1024), None);
        let warning = warning("limit.total = 513", 1024).unwrap();
        assert!(warning.contains("limited to 1024"), "{warning}");
        assert!(warning.contains("beyond some 512 wait"), "{warning}");
    }

    #[test]
    fn routes_with_limits_of_their_own_add_up() {
        let routes = "[[route]]\npath = '/a'\nlimit.total = 100\n[[route]]\npath = '/b'";
        let text = format!("limit.total = 100\n{routes}");
        assert_eq!(warning(&text, 400), None);
        assert!(warning(&text, 399).is_some());
    }

    #[test]
    fn no_limit_is_no_promise() {
        assert_eq!(warning("limit.total = 'off'", 64), None);
    }
}
