//! The manifest's checksum of itself, computed while it is read.

use std::io::{Read, Result};

use anyhow::{Context, ensure};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a manifest's lines.
pub type Checksum = [u8; 32];

/// Passes a manifest on, and computes the checksum of all lines but the last.
pub struct Summing<R> {
    source: R,
    all: Sha256,
    /// Up to the last newline.
    lines: Option<Sha256>,
    /// Up to the newline before that.
    lines_before: Option<Sha256>,
    ends_line: bool,
}

impl<R: Read> Summing<R> {
    /// Creates it.
    pub fn new(source: R) -> Self {
        Self {
            source,
            all: Sha256::new(),
            lines: None,
            lines_before: None,
            ends_line: false,
        }
    }

    /// The checksum, after everything was read.
    ///
    /// # Errors
    /// An error if it is not made of lines.
    pub fn finish(self) -> anyhow::Result<Checksum> {
        ensure!(self.ends_line, "last line not newline-terminated");
        let covered = self.lines_before.context("expected at least 2 lines")?;
        Ok(covered.finalize().into())
    }

    fn add(&mut self, bytes: &[u8]) {
        let Some(&last) = bytes.last() else {
            return;
        };
        self.ends_line = last == b'\n';
        let newline = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'\n');
        let end = newline(bytes).map_or(0, |newline| newline + 1);
        let (lines, rest) = bytes.split_at(end);
        if let Some((_, inner)) = lines.split_last() {
            self.lines_before = self.lines.take();
            let before = newline(inner).map_or(0, |newline| newline + 1);
            let (before, line) = lines.split_at(before);
            self.all.update(before);
            if !before.is_empty() {
                self.lines_before = Some(self.all.clone());
            }
            self.all.update(line);
            self.lines = Some(self.all.clone());
        }
        self.all.update(rest);
    }
}

impl<R: Read> Read for Summing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = self.source.read(buffer)?;
        self.add(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sum(text: &[u8], piece: usize) -> anyhow::Result<Checksum> {
        let mut summing = Summing::new(text);
        let mut buffer = vec![0; piece];
        while summing.read(&mut buffer).unwrap() > 0 {}
        summing.finish()
    }

    #[test]
    fn all_lines_but_the_last_count() {
        for (text, covered) in [
            ("a\nb\n", "a\n"),
            ("\n\n", "\n"),
            ("one\ntwo\n\nthree\n", "one\ntwo\n\n"),
        ] {
            let expected: Checksum = Sha256::digest(covered).into();
            for piece in 1..text.len() + 1 {
                assert_eq!(sum(text.as_bytes(), piece).unwrap(), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn a_text_without_lines_has_none() {
        for piece in 1..4 {
            for (text, said) in [
                ("a\nb", "last line not newline-terminated"),
                ("", "last line not newline-terminated"),
                ("ab\n", "expected at least 2 lines"),
            ] {
                let error = sum(text.as_bytes(), piece).unwrap_err();
                assert_eq!(error.to_string(), said, "{text:?}");
            }
        }
    }
}
