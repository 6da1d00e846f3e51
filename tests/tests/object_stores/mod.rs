//! The object stores of the tests do what S3 and Azure do, for a client that is not the program.

mod operations;

use std::sync::Arc;
use std::time::Duration;

use backup_tests::object_store::{Act, Azurite, BUCKET, Fault, Kind, Moto, S3Server};
use backup_tests::wait::{PATIENCE, wait_for};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, Error, GetOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::Runtime;

use self::operations::{PART, bytes, require_list_after, require_operations};

/// Client of an S3 server. It repeats a failed request at most as often as is said.
fn s3_client(environment: &[(&str, String)], repetitions: usize) -> AmazonS3 {
    let mut builder = AmazonS3Builder::new().with_bucket_name(BUCKET);
    for (name, value) in environment {
        let key = name.to_lowercase().parse().expect("a known variable");
        builder = builder.with_config(key, value);
    }
    builder
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(10),
                max_backoff: Duration::from_millis(50),
                base: 2.0,
            },
            max_retries: repetitions,
            retry_timeout: PATIENCE,
        })
        .build()
        .expect("a client")
}

/// Client of Azurite.
fn azure_client(environment: &[(&str, String)]) -> MicrosoftAzure {
    let mut builder = MicrosoftAzureBuilder::new().with_container_name(BUCKET);
    for (name, value) in environment {
        let key = name.to_lowercase().parse().expect("a known variable");
        builder = builder.with_config(key, value);
    }
    builder.build().expect("a client")
}

/// Google's client of the S3 server.
fn google_client(environment: &[(&str, String)]) -> GoogleCloudStorage {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(BUCKET);
    for (name, value) in environment {
        let key = name.to_lowercase().parse().expect("a known variable");
        builder = builder.with_config(key, value);
    }
    builder.build().expect("a client")
}

fn runtime() -> Runtime {
    Runtime::new().expect("threads of the client")
}

#[test]
fn the_s3_server_does_what_the_program_needs() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    runtime().block_on(require_operations(&store));
    let size = 2 * PART as u64 + 1000;
    let objects = [
        ("once/race".to_owned(), 100_000),
        ("parts/large".to_owned(), size),
    ];
    assert_eq!(server.objects(), objects);
    assert_eq!(server.open_uploads(), 0);
    let requests = server.requests();
    assert_eq!(requests.faulted(), 0);
    assert_eq!(requests.bytes_got_of("parts/large"), size + 20);
    assert_eq!(requests.bytes_put_of("parts/large"), size);
    assert_eq!(requests.count(Kind::Part), 4);
    assert!(requests.count(Kind::List) > 3);
    runtime().block_on(require_list_after(&store));
}

#[test]
fn moto_does_what_the_program_needs() {
    if let Some(server) = Moto::start() {
        let store = s3_client(&server.environment(), 0);
        runtime().block_on(require_operations(&store));
        runtime().block_on(require_list_after(&store));
    }
}

#[test]
fn azurite_does_what_the_program_needs() {
    if let Some(server) = Azurite::start() {
        let store = azure_client(&server.environment());
        runtime().block_on(require_operations(&store));
    }
}

#[test]
fn the_s3_server_does_what_the_program_needs_of_google() {
    let server = S3Server::start();
    let store = google_client(&server.google_environment());
    runtime().block_on(require_operations(&store));
    runtime().block_on(require_list_after(&store));
}

#[test]
fn parts_of_different_lengths_that_arrive_in_any_order_make_an_object() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    let path = Path::from("a");
    // Lengths of parts in the order of their numbers, and the order in which they arrive.
    for (lengths, order) in [
        (&[PART, PART, 1000][..], &[2, 1, 0][..]),
        (&[PART, PART, PART + 1, PART + 1, 7], &[0, 3, 2, 1, 4]),
        // The second is sent again.
        (&[PART, PART, 1000], &[0, 1, 2, 1]),
    ] {
        let content = bytes(lengths.iter().sum());
        let ended = runtime().block_on(async {
            let id = store.create_multipart(&path).await.expect("an upload");
            let mut parts = vec![None; lengths.len()];
            for &index in order {
                let start: usize = lengths[..index].iter().sum();
                let part = content[start..start + lengths[index]].to_vec();
                let sent = store.put_part(&path, &id, index, part.into()).await;
                parts[index] = Some(sent.expect("a part"));
            }
            let parts = parts.into_iter().flatten().collect();
            store.complete_multipart(&path, &id, parts).await
        });
        ended.expect("its end");
        assert!(server.read("a") == content, "{lengths:?} {order:?}");
        assert_eq!(server.open_uploads(), 0);
    }
}

#[test]
fn objects_of_the_s3_server_can_be_changed_behind_its_back() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    let path = Path::from("a/b");
    runtime().block_on(async {
        store.put(&path, "before".into()).await.expect("an object");
        server.write("a/b", b"afterwards");
        let object = store.get(&path).await.expect("the object");
        assert_eq!(object.meta.size, 10);
        assert_eq!(object.bytes().await.expect("its content"), "afterwards");
        server.remove("a/b");
        assert!(matches!(
            store.get(&path).await,
            Err(Error::NotFound { .. })
        ));
        let mut upload = store.put_multipart(&path).await.expect("an upload");
        upload.put_part(bytes(100).into()).await.expect("its part");
    });
    assert_eq!(server.open_uploads(), 1);
    assert_eq!(server.objects(), []);
}

#[test]
fn a_read_can_require_that_an_object_is_the_same() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    let path = Path::from("a");
    runtime().block_on(async {
        store.put(&path, "before".into()).await.expect("an object");
        let tag = store.head(&path).await.expect("the object").e_tag;
        let same = || GetOptions::new().with_if_match(tag.clone());
        let part = same().with_range(Some(0..3));
        store.get_opts(&path, part).await.expect("the same");
        server.write("a", b"afterwards");
        let changed = store.get_opts(&path, same()).await;
        assert!(
            matches!(changed, Err(Error::Precondition { .. })),
            "{changed:?}"
        );
        let other = GetOptions::new().with_if_none_match(tag);
        store.get_opts(&path, other).await.expect("another");
    });
}

#[test]
fn an_upload_that_has_ended_is_not_found() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 1);
    server.switch_on(&Fault::new(Act::Lose).on(&[Kind::Complete]).first(1));
    let failed = runtime().block_on(async {
        let path = Path::from("a");
        let mut upload = store.put_multipart(&path).await.expect("an upload");
        upload.put_part(bytes(100).into()).await.expect("its part");
        upload.complete().await
    });
    assert!(matches!(failed, Err(Error::NotFound { .. })), "{failed:?}");
    assert_eq!(server.objects(), [("a".to_owned(), 100)]);
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn a_client_with_another_key_is_refused() {
    let server = S3Server::start();
    let mut environment = server.environment();
    environment[1].1 = "another".to_owned();
    let store = s3_client(&environment, 0);
    let refused = runtime().block_on(store.get(&Path::from("a")));
    assert!(
        matches!(refused, Err(Error::PermissionDenied { .. })),
        "{refused:?}"
    );
}

#[test]
fn requests_fail_when_a_test_says_so() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    let put = |name: &str| runtime().block_on(store.put(&Path::from(name), bytes(1000).into()));
    put("a").expect("an object");
    server.switch_on(&Fault::new(Act::SlowDown).on(&[Kind::Put]).every(2));
    put("b").expect("the first");
    let refused = put("c").expect_err("the second is refused").to_string();
    assert!(
        refused.contains("503") && refused.contains("SlowDown"),
        "{refused}"
    );
    put("c").expect("the third");
    server.heal();
    server.switch_on(&Fault::new(Act::AccessDenied).of("d*"));
    assert!(matches!(put("d/e"), Err(Error::PermissionDenied { .. })));
    put("e").expect("another object");
    server.heal();
    server.fill_after(1500);
    put("f").expect("there is room");
    let refused = put("g").expect_err("there is no more").to_string();
    assert!(refused.contains("507"), "{refused}");
    server.heal();
    server.switch_on(&Fault::new(Act::Lose).first(1));
    put("h").expect_err("there is no answer");
    let names: Vec<_> = server.objects().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c", "e", "f", "h"]);
    assert_eq!(server.requests().faulted(), 4);
}

#[test]
fn a_client_repeats_what_a_server_refuses_for_a_time() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 5);
    server.switch_on(&Fault::new(Act::InternalError).first(3));
    runtime()
        .block_on(store.put(&Path::from("a"), "x".into()))
        .expect("the fourth request");
    assert_eq!(server.requests().count(Kind::Put), 4);
    assert_eq!(server.objects(), [("a".to_owned(), 1)]);
}

#[test]
fn a_body_ends_in_the_middle() {
    let server = S3Server::start();
    let store = s3_client(&server.environment(), 0);
    server.write("a", &bytes(1_000_000));
    server.switch_on(&Fault::new(Act::Cut));
    runtime().block_on(async {
        let object = store
            .get(&Path::from("a"))
            .await
            .expect("the begin of the answer");
        object.bytes().await.expect_err("the connection was closed");
        assert_eq!(server.requests().bytes_got(), 500_000);
        server.heal();
        let mut upload = store
            .put_multipart(&Path::from("b"))
            .await
            .expect("an upload");
        server.switch_on(&Fault::new(Act::Cut).on(&[Kind::Part]).every(2));
        upload
            .put_part(bytes(PART).into())
            .await
            .expect("the first part");
        let cut = upload.put_part(bytes(PART).into()).await;
        cut.expect_err("the connection was closed");
    });
    let requests = server.requests();
    assert_eq!(requests.bytes_put(), (PART + PART / 2) as u64);
    assert_eq!(server.open_uploads(), 1);
}

#[test]
fn a_request_stalls() {
    let server = S3Server::start();
    let store = Arc::new(s3_client(&server.environment(), 0));
    server.write("a", &bytes(1_000_000));
    let runtime = runtime();
    let get = || {
        let store = Arc::clone(&store);
        runtime.spawn(async move { store.get(&Path::from("a")).await?.bytes().await })
    };
    server.switch_on(&Fault::new(Act::Stall).from(2));
    assert!(runtime.block_on(get()).expect("no panic").is_ok());
    let stalled = get();
    wait_for("a stalled request", PATIENCE, || {
        server.requests().faulted() == 1
    });
    server.heal();
    server.switch_on(&Fault::new(Act::Hang));
    let hanging = get();
    wait_for("half of an object", PATIENCE, || {
        server.requests().bytes_got() == 1_500_000
    });
    assert!(!stalled.is_finished() && !hanging.is_finished());
    server.heal();
    assert!(runtime.block_on(get()).expect("no panic").is_ok());
    runtime.shutdown_background();
}
