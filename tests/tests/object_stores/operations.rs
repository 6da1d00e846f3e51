//! Operations that the program needs of a store, as a client sees them.

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

/// The least size of a part that is not the last.
pub const PART: usize = 5 * 1024 * 1024;

/// Bytes that do not repeat where parts meet.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number % 251) as u8).collect()
}

/// What the program needs of a store.
pub async fn require_operations(store: &dyn ObjectStore) {
    require_conditional_put(store).await;
    require_parts(store).await;
    require_lists(store).await;
    require_removal(store).await;
}

async fn require_conditional_put(store: &dyn ObjectStore) {
    let path = Path::from("once/owner");
    let put = |text: &'static str| store.put_opts(&path, text.into(), PutMode::Create.into());
    put("first").await.expect("there was no object");
    let refused = put("second").await;
    assert!(
        matches!(refused, Err(Error::AlreadyExists { .. })),
        "{refused:?}"
    );
    // Of several at once, one is the first.
    let path = Path::from("once/race");
    let racers = (0..8_u8).map(|number| {
        let (path, payload) = (path.clone(), PutPayload::from(vec![number; 100_000]));
        async move { store.put_opts(&path, payload, PutMode::Create.into()).await }
    });
    let results: Vec<_> = futures::future::join_all(racers).await;
    let winners: Vec<_> = (0..8_u8)
        .zip(&results)
        .filter(|(_, result)| result.is_ok())
        .collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let kept = store
        .get(&path)
        .await
        .expect("the object")
        .bytes()
        .await
        .expect("its content");
    assert_eq!(kept, vec![winners[0].0; 100_000]);
}

async fn require_parts(store: &dyn ObjectStore) {
    let path = Path::from("parts/large");
    let content = bytes(2 * PART + 1000);
    let mut upload = store.put_multipart(&path).await.expect("an upload");
    let parts: Vec<_> = content
        .chunks(PART)
        .map(|part| upload.put_part(part.to_vec().into()))
        .collect();
    futures::future::try_join_all(parts)
        .await
        .expect("its parts");
    assert!(matches!(
        store.head(&path).await,
        Err(Error::NotFound { .. })
    ));
    upload.complete().await.expect("its end");
    assert_eq!(
        store.head(&path).await.expect("the object").size,
        content.len() as u64
    );
    let all = store
        .get(&path)
        .await
        .expect("the object")
        .bytes()
        .await
        .expect("its content");
    assert!(all == content, "the parts are not in order");
    let (from, to) = (PART - 10, PART + 10);
    let range = store
        .get_range(&path, from as u64..to as u64)
        .await
        .expect("a range");
    assert_eq!(range, content[from..to]);
    let mut upload = store
        .put_multipart(&Path::from("parts/none"))
        .await
        .expect("an upload");
    upload.put_part(bytes(100).into()).await.expect("its part");
    upload.abort().await.expect("its abandonment");
    let absent = store.get(&Path::from("parts/none")).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })));
}

async fn require_lists(store: &dyn ObjectStore) {
    let names: Vec<_> = (0..1100)
        .map(|number| format!("list/inner/{number:04}"))
        .collect();
    let puts = names.iter().map(|name| {
        let path = Path::from(name.as_str());
        async move { store.put(&path, "x".into()).await }
    });
    futures::stream::iter(puts)
        .buffered(16)
        .try_for_each(|_| async { Ok(()) })
        .await
        .expect("many objects");
    store
        .put(&Path::from("list/outer"), "y".into())
        .await
        .expect("an object");
    // More than one answer of a server can name.
    let listed: Vec<_> = store
        .list(Some(&Path::from("list/inner")))
        .map_ok(|object| object.location.to_string())
        .try_collect()
        .await
        .expect("a list");
    assert!(listed == names, "{} objects are listed", listed.len());
    let level = store
        .list_with_delimiter(Some(&Path::from("list")))
        .await
        .expect("a list");
    assert_eq!(level.common_prefixes, [Path::from("list/inner")]);
    let objects: Vec<_> = level
        .objects
        .iter()
        .map(|object| object.location.as_ref())
        .collect();
    assert_eq!(objects, ["list/outer"]);
}

/// A list of the objects after a name. Azurite lists all, whatever it is asked for.
pub async fn require_list_after(store: &dyn ObjectStore) {
    let names = ["after/a", "after/b/c", "after/d"];
    for name in names {
        store
            .put(&Path::from(name), "x".into())
            .await
            .expect("an object");
    }
    let after: Vec<_> = store
        .list_with_offset(Some(&Path::from("after")), &Path::from("after/a"))
        .map_ok(|object| object.location.to_string())
        .try_collect()
        .await
        .expect("a list");
    assert_eq!(after, names[1..]);
}

async fn require_removal(store: &dyn ObjectStore) {
    // moto answers with 500 now and then if it has to list while objects are removed.
    let listed: Vec<_> = store
        .list(Some(&Path::from("list")))
        .map_ok(|object| object.location)
        .collect()
        .await;
    let removed: Vec<_> = store
        .delete_stream(stream::iter(listed).boxed())
        .try_collect()
        .await
        .expect("removal of many objects");
    assert_eq!(removed.len(), 1101);
    assert_eq!(store.list(Some(&Path::from("list"))).count().await, 0);
    store
        .delete(&Path::from("once/owner"))
        .await
        .expect("removal of an object");
    let absent = store.get(&Path::from("once/owner")).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })));
}
