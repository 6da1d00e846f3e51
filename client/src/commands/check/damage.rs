//! Damage of files, parsed from the server's WARNINGs.

use std::collections::BTreeMap;
use std::fmt;

/// Damage of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The first bad pages, counted from the beginning of the file.
    blocks: Vec<u32>,
    /// All of them, where there are more.
    total: u64,
    /// Why it could not be read to its end.
    pub unreadable: Option<String>,
}

/// Damage by the server's file names.
pub type Findings = BTreeMap<Vec<u8>, Damage>;

impl Damage {
    /// Number of bad pages.
    pub fn pages(&self) -> u64 {
        self.total.max(self.blocks.len() as u64)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks: Vec<_> = self.blocks.iter().map(u32::to_string).collect();
        match self.blocks.len() {
            0 => {}
            1 => write!(f, "block {}", blocks.concat())?,
            _ => write!(f, "blocks {}", blocks.join(", "))?,
        }
        let more = self.pages() - self.blocks.len() as u64;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        if let Some(why) = &self.unreadable {
            let separator = if self.pages() > 0 { "; " } else { "" };
            // One line is for one file.
            let why = why.lines().next().unwrap_or_default().replace('\t', " ");
            write!(f, "{separator}{why}")?;
        }
        Ok(())
    }
}

/// Parses a line written by libpq, severity first. Returns whether it is about bad pages.
pub fn hear(findings: &mut Findings, line: &str) -> bool {
    let Some((_, message)) = line.split_once(":  ") else {
        return false;
    };
    match Warning::read(message.as_bytes()) {
        Some(Warning::Block(path, block)) => {
            let damage = findings.entry(path.to_vec()).or_default();
            damage.blocks.push(block);
        }
        Some(Warning::Total(path, total)) => {
            findings.entry(path.to_vec()).or_default().total = total;
        }
        Some(Warning::NoPage(path)) => {
            let damage = findings.entry(path.to_vec()).or_default();
            damage.unreadable = Some(message.to_owned());
        }
        Some(Warning::Sum) => {}
        None => return false,
    }
    true
}

/// The warnings about bad pages, in the words of page_verifier.rs and core.
#[derive(Debug, PartialEq, Eq)]
enum Warning<'a> {
    /// A bad page.
    Block(&'a [u8], u32),
    /// How many a file has.
    Total(&'a [u8], u64),
    /// It ends within a page, and nobody knows what is in that.
    NoPage(&'a [u8]),
    /// What follows from the others.
    Sum,
}

impl<'a> Warning<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        if let Some(rest) = message.strip_prefix(b"checksum verification failed in file \"") {
            let (path, rest) = split_last(rest, b"\", block ")?;
            let end = rest.iter().position(|&byte| byte == b':')?;
            return Some(Self::Block(path, number(&rest[..end])?));
        }
        if let Some(rest) = message.strip_prefix(b"could not verify checksum in file \"") {
            let (path, _) = split_last(rest, b"\", block ")?;
            return Some(Self::NoPage(path));
        }
        if let Some(rest) = message.strip_suffix(b" checksum verification failures") {
            if let Some(rest) = rest.strip_prefix(b"file \"") {
                let (path, count) = split_last(rest, b"\" has a total of ")?;
                return Some(Self::Total(path, number(count)?));
            }
            return rest.ends_with(b" total").then_some(Self::Sum);
        }
        message
            .starts_with(b"further checksum verification failures in file \"")
            .then_some(Self::Sum)
    }
}

fn split_last<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = text
        .windows(separator.len())
        .rposition(|window| window == separator)?;
    Some((&text[..place], &text[place + separator.len()..]))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::escape;

    #[test]
    fn warnings_are_sorted_by_file() {
        let mut findings = Findings::new();
        for message in [
            "checksum verification failed in file \"base/5/2\", block 3: calculated 1 but expected 2",
            "checksum verification failed in file \"a\", block 1: \", block 7: new",
            "checksum verification failed in file \"base/5/2\", block 4: page is marked new",
            "further checksum verification failures in file \"base/5/2\" will not be reported",
            "file \"base/5/2\" has a total of 16 checksum verification failures",
            "17 total checksum verification failures",
            "could not verify checksum in file \"base/5/3\", block 1: odd",
        ] {
            assert!(hear(&mut findings, &format!("WARNUNG:  {message}")));
        }
        let shown: Vec<_> = findings
            .iter()
            .map(|(path, damage)| (escape::name(path), damage.to_string()))
            .collect();
        let expected = [
            ("a\", block 1: ", "block 7"),
            ("base/5/2", "blocks 3, 4 and 14 more"),
            (
                "base/5/3",
                "could not verify checksum in file \"base/5/3\", block 1: odd",
            ),
        ];
        assert_eq!(
            shown,
            expected.map(|(path, damage)| (path.to_owned(), damage.to_owned()))
        );
    }

    #[test]
    fn other_lines_are_for_others() {
        for line in [
            "checksum verification failed in file \"base/5/2\", block 3: calculated 1 but expected 2",
            "HINT:  17 total",
            "",
        ] {
            let mut findings = Findings::new();
            assert!(!hear(&mut findings, line));
            assert!(findings.is_empty());
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let mut damage = Damage {
            unreadable: Some("could not read\nDETAIL:  x".to_owned()),
            ..Damage::default()
        };
        assert_eq!(damage.to_string(), "could not read");
        damage.blocks.push(7);
        assert_eq!(damage.to_string(), "block 7; could not read");
        assert_eq!(damage.pages(), 1);
    }
}
