//! Template of a shell command with a placeholder for a file name.

use anyhow::{Result, anyhow};

/// Shell command with a placeholder for a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    FileName,
}

impl CommandTemplate {
    /// Parses a template: `%f` is the file name, `%%` a percent sign.
    ///
    /// # Errors
    /// An error if the template has another placeholder or no `%f`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |detail: String| {
            anyhow!("invalid value for option \"--pipe\": \"{text}\"\nDETAIL:  {detail}")
        };
        let mut pieces = Vec::new();
        let mut piece = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match letters.next() {
                    Some('%') => piece.push('%'),
                    Some('f') => {
                        pieces.push(Piece::Text(std::mem::take(&mut piece)));
                        pieces.push(Piece::FileName);
                    }
                    Some(other) => {
                        let detail =
                            format!("String contains unexpected placeholder \"%{other}\".");
                        return Err(invalid(detail));
                    }
                    None => {
                        let detail = "String ends unexpectedly with escape character \"%\".";
                        return Err(invalid(detail.to_owned()));
                    }
                },
                '\0' => return Err(invalid("String contains a zero byte.".to_owned())),
                letter => piece.push(letter),
            }
        }
        pieces.push(Piece::Text(piece));
        if !pieces.contains(&Piece::FileName) {
            let detail = "It runs once for each file, and must contain the file's name, %f.";
            return Err(invalid(detail.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The command for one file.
    pub fn for_file(&self, name: &str) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::FileName => name.to_owned(),
        };
        self.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_name_of_the_file_takes_its_place() {
        let command = |text| CommandTemplate::parse(text).map(|parsed| parsed.for_file("base.tar"));
        assert_eq!(command("cat >%f").unwrap(), "cat >base.tar");
        assert_eq!(command("%f%%f%f").unwrap(), "base.tar%fbase.tar");
        for (text, word) in [
            ("cat >%f %d", "\"%d\""),
            ("cat >%f %", "ends unexpectedly"),
            ("cat >x", "must contain"),
            ("cat >%%f", "must contain"),
            ("", "must contain"),
            ("%f\0", "zero byte"),
        ] {
            let error = command(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
