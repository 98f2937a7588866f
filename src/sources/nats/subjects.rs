//! Subjects, and patterns of them.

/// Why a text is not a subject; `None` if it is one. A pattern may have the wildcards `*` and `>`.
pub fn fault(text: &str, is_pattern: bool) -> Option<&'static str> {
    let tokens: Vec<_> = text.split('.').collect();
    if tokens.iter().any(|token| token.is_empty()) {
        return Some("has an empty part");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("contains white space");
    }
    let wild = |token: &&&str| ["*", ">"].contains(*token);
    if !is_pattern && tokens.iter().any(|token| wild(&token)) {
        return Some("has a wildcard");
    }
    let last = tokens.len() - 1;
    if tokens.iter().position(|token| *token == ">").is_some_and(|at| at < last) {
        return Some("has > before its end");
    }
    None
}

/// Whether a pattern matches a subject.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

/// The value of the most specific pattern for a subject. The first part in which two patterns differ decides:
/// a name is more specific than `*`, and `*` more than `>`.
pub(super) fn value_of<'a>(map: &'a [(String, String)], subject: &str) -> Option<&'a str> {
    let exactness = |pattern: &str| -> Vec<u8> {
        let rank = |token| match token {
            ">" => 0,
            "*" => 1,
            _ => 2,
        };
        pattern.split('.').map(rank).collect()
    };
    let fitting = map.iter().filter(|(pattern, _)| matches(pattern, subject));
    fitting.max_by_key(|(pattern, _)| exactness(pattern)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_server_matches_them() {
        for (pattern, subject, fits) in [
            ("jobs.1", "jobs.1", true),
            ("jobs.1", "jobs.10", false),
            ("jobs.*", "jobs.1", true),
            ("jobs.*", "jobs.1.done", false),
            ("jobs.*", "jobs", false),
            ("*.done", "jobs.done", true),
            ("jobs.>", "jobs.1.done", true),
            ("jobs.>", "jobs", false),
            (">", "jobs", true),
        ] {
            assert_eq!(matches(pattern, subject), fits, "{pattern} and {subject}");
        }
    }

    #[test]
    fn the_most_specific_pattern_applies() {
        let map = ["jobs.>", "jobs.*.done", "jobs.7.done", "other"];
        let map: Vec<_> = map.iter().map(|it| ((*it).to_owned(), (*it).to_owned())).collect();
        for (subject, found) in [
            ("jobs.7.done", Some("jobs.7.done")),
            ("jobs.8.done", Some("jobs.*.done")),
            ("jobs.8", Some("jobs.>")),
            ("others", None),
        ] {
            assert_eq!(value_of(&map, subject), found, "{subject}");
        }
    }

    #[test]
    fn invalid_subjects_are_refused() {
        for (text, is_pattern, fits) in [
            ("a.b", false, true),
            ("a.*", true, true),
            ("a.>", true, true),
            ("a.*", false, false),
            ("a.>.b", true, false),
            ("a..b", true, false),
            ("", true, false),
            ("a b", true, false),
            ("a\r\nPUB", false, false),
        ] {
            assert_eq!(fault(text, is_pattern).is_none(), fits, "{text:?}");
        }
    }
}
