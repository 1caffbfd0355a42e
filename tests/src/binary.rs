//! Where the built programs are: beside this test, in the same target directory and profile.

use std::path::{Path, PathBuf};

/// The variable that names a directory with programs to try instead: a build with planted faults, an older version.
pub const PROGRAMS: &str = "JCM_TESTS_PROGRAMS";

/// `jcm-server`, `jcmctl`.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os(PROGRAMS)
        && let instead = Path::new(&directory).join(name)
        && instead.is_file()
    {
        return instead;
    }
    existing(profile_directory().join(name))
}

/// An example program of any crate of the workspace.
pub fn example(name: &str) -> PathBuf {
    existing(profile_directory().join("examples").join(name))
}

/// `target/debug` of `target/debug/deps/suite-0123abcd`.
fn profile_directory() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    let directory = this.ancestors().find(|path| path.ends_with("deps")).and_then(Path::parent);
    let Some(directory) = directory else {
        panic!("{} is not below a `deps` directory: the suites are run by cargo", this.display());
    };
    directory.to_owned()
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(
        path.is_file(),
        "{} is not built. Run: cargo build --workspace --bins --examples",
        path.display()
    );
    path
}
