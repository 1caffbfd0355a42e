//! Bad input is named; servers that cannot be reached are no bad input.

use std::error::Error;

use jcm_subscriber::{BuildError, Subscriber};

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn what_cannot_work_is_refused_by_name() {
    let error = Subscriber::builder().build().await.unwrap_err();
    assert!(matches!(error, BuildError::NoServers));
    for (given, part) in
        [("nonsense", "`nonsense`"), ("https://a:1", "TLS"), ("http://a:1/path", "nothing may follow")]
    {
        let error = Subscriber::builder().servers(["127.0.0.1:1", given]).build().await.unwrap_err();
        assert!(error.to_string().contains(part), "{given}: {error}");
    }
    let error = Subscriber::builder().servers(["127.0.0.1:1"]).client_name("a\nb").build().await.unwrap_err();
    assert!(with_sources(&error).starts_with("client name is refused: "), "{}", with_sources(&error));
    let file = tempfile::NamedTempFile::new().unwrap();
    let error =
        Subscriber::builder().servers(["127.0.0.1:1"]).snapshot_dir(file.path()).build().await.unwrap_err();
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_name_that_no_cluster_can_have_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let jcm =
        Subscriber::builder().servers(["127.0.0.1:1"]).snapshot_dir(directory.path()).build().await.unwrap();
    for name in ["", "..", "a/b", "../../etc/passwd", "a\0b", &"a".repeat(200)] {
        let error = jcm.cluster(name).subscribe().await.expect_err(name);
        assert!(with_sources(&error).contains("cluster name"), "{name:?}: {}", with_sources(&error));
    }
}
