//! Suggestions for misspelt names.

/// The candidate that is most similar to `word`; none if no candidate is similar.
///
/// A candidate whose last part is `word` counts as near: `interval` for `heartbeat.interval`.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    // A third of the letters wrong is still the same word; more is another one.
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let same_leaf = candidate
                .rsplit_once('.')
                .is_some_and(|(_, leaf)| leaf == word);
            let distance = if same_leaf {
                1
            } else {
                distance(&word, &candidate.to_lowercase().replace('-', "_"))
            };
            (distance <= limit).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to put in, take out, replace or swap to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_word_finds_its_word() {
        let words = ["heartbeat.interval", "idle.timeout", "idle.event_timeout"];
        let cases = [
            ("heartbeat.intervall", Some("heartbeat.interval")),
            ("hartbeat.intreval", Some("heartbeat.interval")),
            ("idle.event-timeout", Some("idle.event_timeout")),
            ("interval", Some("heartbeat.interval")),
            ("colour", None),
            ("", None),
        ];
        for (word, found) in cases {
            assert_eq!(nearest(word, words), found, "{word}");
        }
    }

    #[test]
    fn distance_of_swapped_neighbours_is_one() {
        assert_eq!(distance("form", "from"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
