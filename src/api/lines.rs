//! Splits a stream of bytes into lines, in bounded memory: a line that is too long is skipped and
//! reported.
//!
//! `LinesCodec` of `tokio_util` is not used, because it decodes UTF-8 and ends the stream at an invalid
//! line. Here such a line is refused and reported with its number, and the others are accepted.

use std::collections::VecDeque;

/// One line of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The bytes, without the line ending.
    Whole(Vec<u8>),
    /// It is longer than the limit.
    TooLong,
}

/// Splits a stream at line endings (`\n` or `\r\n`).
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    begun: Vec<u8>,
    too_long: bool,
    ready: VecDeque<Line>,
}

impl Splitter {
    /// A splitter for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, begun: Vec::new(), too_long: false, ready: VecDeque::new() }
    }

    /// Appends the next part of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    /// The stream has ended: the remaining bytes, if any, are the last line.
    pub fn finish(&mut self) {
        if self.too_long || !self.begun.is_empty() {
            self.end_line();
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        // One byte more than the limit, for the `\r` that is not part of the line.
        if self.too_long || self.begun.len() + bytes.len() > self.limit + 1 {
            self.too_long = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.begun);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let too_long = std::mem::take(&mut self.too_long) || line.len() > self.limit;
        self.ready.push_back(if too_long { Line::TooLong } else { Line::Whole(line) });
    }
}

impl Iterator for Splitter {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(limit: usize, pieces: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::new(limit);
        pieces.iter().for_each(|piece| splitter.feed(piece));
        splitter.finish();
        splitter.collect()
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.into())
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_the_last_line_needs_neither() {
        assert_eq!(split(9, &[b"a\r\n", b"b", b"c\n\nd"]), ["a", "bc", "", "d"].map(whole));
        assert_eq!(split(9, &[b"a\n"]), [whole("a")]);
        assert_eq!(split(9, &[]), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let lines = split(3, &[b"abc\nab", b"cd\nx\nabc\r\nabcd\r\n", &[b'y'; 1000]]);
        let long = Line::TooLong;
        assert_eq!(
            lines,
            [whole("abc"), long.clone(), whole("x"), whole("abc"), long.clone(), long]
        );
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_split(
            text in "[ab\r\n]{0,60}", cut in 0_usize..60, limit in 0_usize..8,
        ) {
            let cut = cut.min(text.len());
            let (a, b) = text.as_bytes().split_at(cut);
            prop_assert_eq!(split(limit, &[a, b]), split(limit, &[text.as_bytes()]));
        }
    }
}
