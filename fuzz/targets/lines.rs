//! The splitter of NDJSON: wherever the stream is cut, and whenever lines are taken out, they
//! are those that splitting the whole text gives.
//!
//! Input: the limit, how many pieces there are before their sizes repeat (modulo 8), the
//! sizes, the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::api::lines::{Line, Splitter};

fn reference(limit: usize, text: &[u8]) -> Vec<Line> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let one = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limit { Line::TooLong } else { Line::Whole(line.to_vec()) }
    };
    lines.into_iter().map(one).collect()
}

fuzz_target!(|data: &[u8]| {
    let [limit, count, rest @ ..] = data else { return };
    let limit = usize::from(*limit);
    let Some((sizes, mut text)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let expected = reference(limit, text);
    let mut splitter = Splitter::new(limit);
    let mut found = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !text.is_empty() {
        // A size of 0 is an empty piece, as HTTP bodies have them.
        let size = sizes.next().map_or(text.len(), |size| usize::from(*size));
        let (piece, rest) = text.split_at(size.min(text.len()));
        splitter.feed(piece);
        if size % 2 == 0 {
            found.extend(&mut splitter);
        }
        if size == 0 {
            splitter.feed(&rest[..1]);
            text = &rest[1..];
        } else {
            text = rest;
        }
    }
    splitter.finish();
    found.extend(&mut splitter);
    assert_eq!(found, expected);
    assert_eq!(splitter.next(), None);
});
