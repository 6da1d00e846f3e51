//! Runs all readers on the inputs in `corpus/`, as they are and mangled at random.
//!
//! `corpus/<subject>/` has one input in each file. A subject with a parser has the folders `accepted`
//! and `refused`. An input that has made a parser fail stays in the corpus. `PROPTEST_CASES` sets the
//! number of mangled inputs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod inputs;
mod readers;

use proptest::prelude::*;

use crate::inputs::{Input, inputs, mangled};

#[test]
fn what_is_accepted_is_accepted_and_what_is_refused_is_refused() {
    let mut seen = 0;
    for input in inputs() {
        if let Some(expected) = input.accepted {
            let accepted = readers::accepts(&input.subject, &input.bytes);
            assert_eq!(accepted, expected, "{input:?}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn no_reader_fails_on_an_input_of_any_subject() {
    for Input { bytes, .. } in inputs() {
        readers::read_everything(bytes);
    }
}

#[test]
fn archives_hold_every_input_as_a_name() {
    let names: Vec<_> = inputs()
        .iter()
        .map(|input| input.bytes.as_slice())
        .filter(|bytes| !bytes.is_empty() && !bytes.contains(&0))
        .collect();
    assert_eq!(readers::names_in_archive(&names), names);
}

#[test]
fn python_reads_every_input_from_a_manifest() {
    let names: Vec<_> = inputs().iter().map(|input| input.bytes.clone()).collect();
    assert_eq!(readers::names_read_by_python(&names), names);
}

proptest! {
    #[test]
    fn no_reader_fails_on_a_mangled_input(bytes in mangled()) {
        readers::read_everything(&bytes);
    }
}
