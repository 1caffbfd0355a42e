//! User and password for ZooKeeper's digest scheme, from a file that nobody else can read. They appear in no log line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a digest file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    #[error("store.zookeeper.digest_file = {path} cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "store.zookeeper.digest_file = {path} can be read by others than its owner (mode {mode:03o}): `chmod 600` it, and change the password if others may have read it"
    )]
    Open { path: PathBuf, mode: u32 },
    #[error("store.zookeeper.digest_file = {path} must hold one line, user:password")]
    Shape { path: PathBuf },
}

/// User and password in a file.
pub(crate) fn load(path: &Path) -> Result<(String, String), DigestError> {
    let unreadable = |source| DigestError::Unreadable { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(DigestError::Open { path: path.to_owned(), mode });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let (user, password) = text
        .strip_suffix('\n')
        .unwrap_or(&text)
        .split_once(':')
        .filter(|(user, password)| !user.is_empty() && !password.is_empty())
        .filter(|(user, password)| ![user, password].iter().any(|part| part.contains(char::is_control)))
        .ok_or_else(|| DigestError::Shape { path: path.to_owned() })?;
    Ok((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_only_its_owner_reads_is_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str, mode| {
            std::fs::write(file.path(), text).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for text in ["jcm:se:cret", "jcm:se:cret\n"] {
            write(text, 0o600);
            assert_eq!(load(file.path()).unwrap(), ("jcm".to_owned(), "se:cret".to_owned()));
        }
        for text in ["", "jcm", ":x", "jcm:", "jcm:x\ny:z\n"] {
            write(text, 0o600);
            let error = load(file.path()).unwrap_err();
            assert!(matches!(error, DigestError::Shape { .. }), "{text:?}: {error}");
            assert!(text.len() < 4 || !error.to_string().contains(text), "the secret is in {error}");
        }
        write("jcm:x", 0o640);
        assert!(matches!(load(file.path()), Err(DigestError::Open { mode: 0o640, .. })));
        assert!(matches!(load(Path::new("/nowhere/digest")), Err(DigestError::Unreadable { .. })));
    }
}
