//! The format of sled's log file, to read it without sled and without changing it.
//!
//! The format is that of sled 0.34.7 (`pagecache/logger.rs`, `serialization.rs` there). The file is a
//! sequence of segments of the same size. A segment begins with a header, `crc32 ‖ lsn ‖ stable lsn`,
//! and holds messages, `crc32 ‖ kind ‖ length ‖ segment number ‖ page ‖ body`. An *lsn* is a position
//! in the endless log, of which the segments contain the part that is still needed. If two messages are
//! about the same page, the one with the higher lsn is valid.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

const SEGMENT_HEADER: usize = 20;
/// No message begins closer than this to the end of a segment.
const LONGEST_HEADER: usize = 32;
const DEFAULT_SEGMENT_SIZE: usize = 524_288;

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    /// The rest of the segment is empty.
    Cap,
    /// The page was freed.
    Free,
    /// A whole page.
    Node,
    /// A change of a page.
    Link,
    /// Anything else that is well-formed.
    Other,
}

/// A well-formed message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    pub(crate) page: u64,
    pub(crate) lsn: u64,
    pub(crate) body: MessageBody,
}

/// Location of a message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageBody {
    /// In the log file: offset and length.
    Inline(u64, usize),
    /// In a separate file, with this number.
    Blob(u64),
}

/// A segment of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) lsn: u64,
}

/// The log of the store in a directory.
pub(crate) struct LogFile {
    dir: PathBuf,
    file: File,
    pub(crate) segment_size: usize,
    pub(crate) len: u64,
}

impl LogFile {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let file = File::open(dir.join("db"))?;
        let len = file.metadata()?.len();
        let segment_size = fs::read(dir.join("conf"))
            .ok()
            .and_then(|conf| {
                let text = String::from_utf8_lossy(&conf).into_owned();
                text.lines().find_map(|line| line.strip_prefix("segment_size: ")?.parse().ok())
            })
            .filter(|size: &usize| size.is_power_of_two() && (256..=1 << 24).contains(size))
            .unwrap_or(DEFAULT_SEGMENT_SIZE);
        Ok(Self { dir: dir.to_owned(), file, segment_size, len })
    }

    /// Every segment with a valid header, in the order in which they were written.
    pub(crate) fn segments(&mut self) -> io::Result<Vec<Segment>> {
        let mut found = Vec::new();
        for offset in self.offsets() {
            let lsn = segment_lsn(&self.header(offset)?);
            found.extend(lsn.map(|lsn| Segment { offset, lsn }));
        }
        found.sort_by_key(|segment| segment.lsn);
        Ok(found)
    }

    /// Every segment without a valid header that contains a message, which identifies the segment.
    pub(crate) fn beheaded(&mut self) -> io::Result<Vec<Segment>> {
        let mut found = Vec::new();
        for offset in self.offsets() {
            if segment_lsn(&self.header(offset)?).is_none() {
                let bytes = self.read_segment(Segment { offset, lsn: 0 })?;
                let first = (SEGMENT_HEADER..bytes.len()).find_map(|at| raw(&bytes, at));
                let lsn = first.and_then(|it| it.segment.checked_mul(self.segment_size as u64));
                found.extend(lsn.map(|lsn| Segment { offset, lsn }));
            }
        }
        Ok(found)
    }

    fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.len.saturating_sub(SEGMENT_HEADER as u64 - 1)).step_by(self.segment_size)
    }

    fn header(&mut self, offset: u64) -> io::Result<[u8; SEGMENT_HEADER]> {
        let mut header = [0; SEGMENT_HEADER];
        self.read_at(offset, &mut header)?;
        Ok(header)
    }

    /// The bytes of a segment; the last one of the file may be short.
    pub(crate) fn read_segment(&mut self, segment: Segment) -> io::Result<Vec<u8>> {
        let rest = self.len.saturating_sub(segment.offset);
        let size = usize::try_from(rest).unwrap_or(usize::MAX).min(self.segment_size);
        let mut bytes = vec![0; size];
        self.read_at(segment.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The body of a message.
    pub(crate) fn read_body(&mut self, body: MessageBody) -> io::Result<Vec<u8>> {
        match body {
            MessageBody::Inline(offset, len) => {
                let mut bytes = vec![0; len];
                self.read_at(offset, &mut bytes)?;
                Ok(bytes)
            }
            MessageBody::Blob(number) => {
                let bytes = fs::read(self.dir.join("blobs").join(number.to_string()))?;
                let (crc, data) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
                if crc32fast::hash(data) != u32::from_le_bytes(*crc) {
                    return Err(broken());
                }
                Ok(data.get(1..).unwrap_or_default().to_vec())
            }
        }
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(bytes)
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a blob is broken")
}

fn segment_lsn(header: &[u8; SEGMENT_HEADER]) -> Option<u64> {
    const MASK: u64 = 0x7FFF_FFFF_FFFF_FFFF;
    let crc = u32::from_le_bytes(*header.first_chunk()?) ^ u32::MAX;
    let lsn = u64::from_le_bytes(*header[4..].first_chunk()?) ^ MASK;
    (crc32fast::hash(&header[4..]) == crc && lsn <= MASK).then_some(lsn)
}

/// A piece of a segment.
#[derive(Debug)]
pub(crate) enum Piece {
    Message(Message),
    /// Bytes that are not a message, up to the next message or the segment's end.
    Garbage,
}

/// The messages of a segment, in order. After garbage, the next message is searched byte by byte.
pub(crate) struct Messages<'a> {
    bytes: &'a [u8],
    segment: Segment,
    segment_size: usize,
    at: usize,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(bytes: &'a [u8], segment: Segment, segment_size: usize) -> Self {
        Self { bytes, segment, segment_size, at: SEGMENT_HEADER }
    }

    fn parse(&self, at: usize) -> Option<(Message, usize)> {
        let raw = raw(self.bytes, at)?;
        if raw.segment != self.segment.lsn / self.segment_size as u64 {
            return None;
        }
        let body = if matches!(raw.kind, 9 | 11) {
            let number = self.bytes.get(raw.body.clone())?.first_chunk()?;
            MessageBody::Blob(u64::from_le_bytes(*number))
        } else {
            MessageBody::Inline(self.segment.offset + raw.body.start as u64, raw.body.len())
        };
        let kind = match raw.kind {
            2 => MessageKind::Cap,
            4 => MessageKind::Free,
            8 | 9 => MessageKind::Node,
            10 | 11 => MessageKind::Link,
            _ => MessageKind::Other,
        };
        let lsn = self.segment.lsn + at as u64;
        Some((Message { kind, page: raw.page, lsn, body }, raw.body.end))
    }
}

/// A message as it is in the file.
struct Raw {
    kind: u8,
    /// Number of the segment that it was written to.
    segment: u64,
    page: u64,
    body: Range<usize>,
}

fn raw(bytes: &[u8], at: usize) -> Option<Raw> {
    let header = bytes.get(at..)?;
    let crc = u32::from_le_bytes(*header.first_chunk()?);
    let mut rest = &header[4..];
    let kind = take_byte(&mut rest)?;
    let len = usize::try_from(take_number(&mut rest)?).ok()?;
    let segment = take_number(&mut rest)?;
    let page = take_number(&mut rest)?;
    if !(1..=11).contains(&kind) {
        return None;
    }
    let begin = bytes.len() - rest.len();
    let body = rest.get(..len)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&bytes[at + 4..begin]);
    let whole = hasher.finalize() ^ u32::MAX == crc;
    whole.then(|| Raw { kind, segment, page, body: begin..begin + len })
}

impl Iterator for Messages<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let end = self.segment_size - LONGEST_HEADER;
        if self.at > end || self.at >= self.bytes.len() {
            return None;
        }
        if let Some((message, next)) = self.parse(self.at) {
            self.at = if message.kind == MessageKind::Cap { self.segment_size } else { next };
            return Some(Piece::Message(message));
        }
        let next = (self.at + 1..=end.min(self.bytes.len())).find(|at| self.parse(*at).is_some());
        self.at = next.unwrap_or(self.segment_size);
        Some(Piece::Garbage)
    }
}

pub(crate) fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// A number in sled's variable-length form.
pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let first = take_byte(bytes)?;
    match first {
        0..=240 => Some(u64::from(first)),
        241..=248 => Some(240 + 256 * (u64::from(first) - 241) + u64::from(take_byte(bytes)?)),
        249 => {
            let (high, low) = (take_byte(bytes)?, take_byte(bytes)?);
            Some(2288 + 256 * u64::from(high) + u64::from(low))
        }
        250.. => {
            let mut number = [0; 8];
            let (taken, rest) = bytes.split_at_checked(usize::from(first - 247))?;
            number.get_mut(..taken.len())?.copy_from_slice(taken);
            *bytes = rest;
            Some(u64::from_le_bytes(number))
        }
    }
}

/// Bytes with their length before them.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_number(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// The paths of sled's snapshots, which determine from where on sled reads its log.
pub(crate) fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}
