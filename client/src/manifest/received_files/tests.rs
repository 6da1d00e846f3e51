#![allow(clippy::unwrap_used)]

use super::*;

const FILE: ReceivedFile<'_> = ReceivedFile {
    size: 3,
    digest: &[1, 2, 3, 4],
};

fn is_own(received: &ReceivedFiles, path: &[u8], stream: Stream) -> bool {
    matches!(received.begin(path, stream), Ok(Ownership::Own(_)))
}

#[test]
fn the_stream_that_ends_well_has_the_file() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let (lost, other) = (received.stream(), received.stream());
    assert!(is_own(&received, b"a", lost));
    assert_eq!(received.begin(b"a", lost).unwrap(), Ownership::Twice);
    assert_eq!(received.begin(b"a", other).unwrap(), Ownership::Aside);
    received.take_over(b"a", other, FILE, || Ok(())).unwrap();
    received.give_up(lost, |_| panic!("the file is another stream's"));
    assert_eq!(received.begin(b"a", other).unwrap(), Ownership::Twice);
    received.end_stream(other, HashSet::new()).unwrap();
    assert_eq!(received.into_files().unwrap().take(b"a"), Some(FILE));
}

#[test]
fn a_failed_stream_removes_what_nobody_took() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let (lost, other) = (received.stream(), received.stream());
    assert!(is_own(&received, b"a", lost));
    let mut removed = false;
    received.give_up(lost, |_| removed = true);
    assert!(removed);
    assert!(is_own(&received, b"a", other));
}

/// What a stream that failed late had of a file does not replace what has come since.
#[test]
fn a_file_that_was_taken_over_keeps_its_checksum() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let (late, other) = (received.stream(), received.stream());
    let Ok(Ownership::Own(id)) = received.begin(b"a", late) else {
        panic!("the file is new");
    };
    received.take_over(b"a", other, FILE, || Ok(())).unwrap();
    received.end_stream(other, HashSet::new()).unwrap();
    let torn = ReceivedFile {
        size: 1,
        digest: &[0; 4],
    };
    received.complete(id, late, torn);
    received.give_up(late, |_| panic!("the file is another stream's"));
    assert_eq!(received.into_files().unwrap().take(b"a"), Some(FILE));
}

#[test]
fn one_of_two_streams_that_end_well_has_a_file() {
    for first in [0, 1] {
        let received = ReceivedFiles::new(Algorithm::Crc32c);
        let (own, aside) = (received.stream(), received.stream());
        let Ok(Ownership::Own(id)) = received.begin(b"a", own) else {
            panic!("the file is new");
        };
        let end_own = || {
            received.complete(id, own, FILE);
            received.end_stream(own, HashSet::new())
        };
        let end_aside = || {
            received.take_over(b"a", aside, FILE, || Ok(()))?;
            received.end_stream(aside, HashSet::new())
        };
        let (before, after) = match first {
            0 => (end_own(), end_aside()),
            _ => (end_aside(), end_own()),
        };
        before.unwrap();
        let said = after.unwrap_err().to_string();
        assert_eq!(said, "backup contains file \"a\" twice");
    }
}

#[test]
fn a_file_in_parts_counts_once_it_is_whole() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let (one, two) = (received.stream(), received.stream());
    let begin = |stream, offset| {
        let place = FilePart {
            offset,
            file_size: 20,
        };
        received.begin_part(b"a", (10, place), stream, |_| Ok(()))
    };
    for (stream, offset) in [(two, 10), (one, 0)] {
        let (part, _, ()) = begin(stream, offset).unwrap();
        part.complete(digest::crc32c(b"0123456789"));
    }
    received.end_stream(one, HashSet::new()).unwrap();
    assert!(!received.has_file(b"a"));
    received.end_stream(two, HashSet::new()).unwrap();
    assert!(received.has_file(b"a"));
    assert_eq!(received.count(), 1);
    assert_eq!(received.begin(b"a", two).unwrap(), Ownership::Twice);
    let digest = digest::crc32c(b"01234567890123456789").to_le_bytes();
    let expected = ReceivedFile {
        size: 20,
        digest: &digest,
    };
    let mut files = received.into_files().unwrap();
    assert_eq!(files.bytes(), 20);
    assert_eq!(files.take(b"a"), Some(expected));
}

#[test]
fn a_file_without_all_its_parts_is_an_error() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let (lost, other) = (received.stream(), received.stream());
    for (stream, offset) in [(lost, 0), (other, 10)] {
        let place = FilePart {
            offset,
            file_size: 20,
        };
        let begun = received.begin_part(b"a", (10, place), stream, |_| Ok(()));
        begun.unwrap().0.complete(0);
    }
    received.end_stream(other, HashSet::new()).unwrap();
    received.give_up(lost, |_| panic!("nothing is removed"));
    assert_eq!(received.count(), 0);
    let error = received.into_files().map(drop).unwrap_err();
    assert_eq!(error.to_string(), "not all parts of file \"a\" arrived");
}

/// Two streams with the same part: the one that ends well has it, and only one of them does.
#[test]
fn one_of_two_streams_that_end_well_has_a_part() {
    let place = FilePart {
        offset: 0,
        file_size: 10,
    };
    for is_first_lost in [true, false] {
        let received = ReceivedFiles::new(Algorithm::None);
        let (one, two) = (received.stream(), received.stream());
        let begin = |stream| received.begin_part(b"a", (10, place), stream, |_| Ok(()));
        let (first, place, ()) = begin(one).unwrap();
        assert_eq!(place, Place::New);
        let (second, place, ()) = begin(two).unwrap();
        assert_eq!(place, Place::Aside);
        let take_over = || {
            received.take_over_part(b"a", &second, 0, || Ok(()))?;
            first.if_owned(|| panic!("it writes no more"))?;
            received.end_stream(two, HashSet::new())
        };
        if is_first_lost {
            first.complete(1);
            take_over().unwrap();
            received.give_up(one, |_| panic!("nothing is removed"));
            assert!(received.has_file(b"a"));
            continue;
        }
        take_over().unwrap();
        let error = received.end_stream(one, HashSet::new()).unwrap_err();
        assert_eq!(error.to_string(), "backup contains file \"a\" twice");
    }
    let received = ReceivedFiles::new(Algorithm::None);
    let (one, two) = (received.stream(), received.stream());
    let begin = |stream| received.begin_part(b"a", (10, place), stream, |_| Ok(()));
    begin(one).unwrap().0.complete(0);
    received.end_stream(one, HashSet::new()).unwrap();
    let (second, _, ()) = begin(two).unwrap();
    let error = received.take_over_part(b"a", &second, 0, || panic!("it is not copied"));
    assert_eq!(
        error.unwrap_err().to_string(),
        "backup contains file \"a\" twice"
    );
}

#[test]
fn parts_are_refused_where_no_checksum_follows_from_them() {
    let received = ReceivedFiles::new(Algorithm::Sha256);
    let place = FilePart {
        offset: 0,
        file_size: 10,
    };
    let begun = received.begin_part(b"a", (10, place), 1, |_| Ok(()));
    assert!(begun.is_err());
}

#[test]
fn a_file_counts_once_its_stream_has_ended() {
    let received = ReceivedFiles::new(Algorithm::Crc32c);
    let stream = received.stream();
    let Ok(Ownership::Own(id)) = received.begin(b"a", stream) else {
        panic!("the file is new");
    };
    assert_eq!(received.count(), 0);
    received.complete(id, stream, FILE);
    assert_eq!(received.count(), 0);
    received
        .end_stream(stream, HashSet::from([b"d".to_vec()]))
        .unwrap();
    assert_eq!(received.count(), 2);
    let mut files = received.into_files().unwrap();
    assert!(files.contains(b"a") && !files.contains(b"d"));
    assert_eq!(files.untaken().collect::<Vec<_>>(), [b"a"]);
    assert_eq!(files.take(b"a"), Some(FILE));
    assert_eq!(files.take(b"a"), None);
    assert_eq!(files.untaken().count(), 0);
}
