//! A minimal HTTP client, so that the producer uses little processor time.

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// One keep-alive connection to the service's API.
pub(crate) struct Connection {
    stream: TcpStream,
    head: String,
    bytes: Vec<u8>,
}

impl Connection {
    /// A connection that posts events of this media type.
    pub(crate) async fn open(address: &str, token: &str, kind: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: {kind}\r\ncontent-length: "
        );
        Ok(Self { stream, head, bytes: Vec::new() })
    }

    /// Sends a body, reads the response, and returns how often it contains `accepted`.
    pub(crate) async fn post(&mut self, body: &[u8]) -> anyhow::Result<usize> {
        let mut request = Vec::with_capacity(self.head.len() + 16 + body.len());
        request.extend_from_slice(self.head.as_bytes());
        request.extend_from_slice(body.len().to_string().as_bytes());
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.bytes.clear();
        while !self.is_whole() {
            let read = self.stream.read_buf(&mut self.bytes).await?;
            ensure!(read > 0, "the service has closed the connection");
        }
        let text = std::str::from_utf8(&self.bytes)?;
        ensure!(text.starts_with("HTTP/1.1 20"), "the service says {text}");
        Ok(text.matches(r#""outcome":"accepted""#).count())
    }

    fn is_whole(&self) -> bool {
        let text = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(1024)]);
        let Some(head) = text.find("\r\n\r\n") else { return false };
        match text[..head].split("content-length: ").nth(1) {
            None => self.bytes.ends_with(b"\r\n0\r\n\r\n"),
            Some(rest) => {
                let length = rest.split("\r\n").next().unwrap_or(rest).parse();
                length.is_ok_and(|length: usize| self.bytes.len() >= head + 4 + length)
            }
        }
    }
}

/// GETs a path of the service and returns the body.
pub(crate) fn get(address: &str, token: &str, path: &str) -> anyhow::Result<String> {
    get_as(address, &format!("Bearer {token}"), path)
}

/// The body of the response at a path, with this Authorization header.
pub(crate) fn get_as(address: &str, authorization: &str, path: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: {authorization}\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    Ok(body.to_owned())
}
