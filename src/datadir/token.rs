//! Token files.

use std::path::Path;

use super::{
    error::{DataDirError, TokenError},
    owner::foreign_owner,
};

/// The setting that names the file with the operator's token.
pub(super) const TOKEN_KEY: &str = "api.token_file";
/// The setting that names the file with the read-only token.
const READ_TOKEN_KEY: &str = "api.read_token_file";

/// Reads the operator's token.
pub fn read_token(path: &Path) -> Result<String, DataDirError> {
    let closed = path.parent().and_then(foreign_owner);
    token_in(path).map_err(|error| match (closed, &error) {
        (Some(owner), TokenError::Unreadable { error, .. })
            if error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            DataDirError::Closed { path: path.parent().unwrap_or(path).to_owned(), owner }
        }
        _ => DataDirError::Token { key: TOKEN_KEY, error },
    })
}

/// Reads the operator's token, and the read-only one where there is one.
pub fn read_tokens(
    token_file: &Path,
    read_token_file: Option<&Path>,
) -> Result<(String, Option<String>), DataDirError> {
    let operator = read_token(token_file)?;
    let reader = read_token_file.map(|path| read_only_token(path, Some(&operator))).transpose();
    let named = |error| DataDirError::Token { key: READ_TOKEN_KEY, error };
    Ok((operator, reader.map_err(named)?))
}

/// Reads the read-only token, which has to differ from the operator's, if that is known.
pub fn read_only_token(path: &Path, operator: Option<&str>) -> Result<String, TokenError> {
    let token = token_in(path)?;
    // The same token would give full access to its holders.
    if operator == Some(&token) {
        return Err(TokenError::Same(path.to_owned()));
    }
    Ok(token)
}

fn token_in(path: &Path) -> Result<String, TokenError> {
    let text = crate::tls::read_regular(path)
        .map_err(|error| TokenError::Unreadable { path: path.to_owned(), error })?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.len() < 16 || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(TokenError::Content(path.to_owned()));
    }
    Ok(token.to_owned())
}
