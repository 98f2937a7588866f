//! The identity of an instance. It is stored in the data directory, whose lock ensures that no other process
//! uses it.

use std::{fs, io, path::Path};

use crate::{files, outbox::ids};

/// The file in the data directory.
const FILE: &str = "node";

/// The identity in this folder, created if there is none.
pub(super) fn identity(folder: &Path) -> io::Result<String> {
    let file = folder.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) if is_identity(text.trim()) => Ok(text.trim().to_owned()),
        Ok(_) => Err(io::Error::other(format!(
            "{} must contain 32 characters from 0-9 and a-f; if it does not exist, a new one is created",
            file.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = data_encoding::HEXLOWER.encode(&ids::random()?);
            files::replace(&file, &identity)?;
            Ok(identity)
        }
        Err(error) => Err(error),
    }
}

fn is_identity(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}
