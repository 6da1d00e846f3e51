//! What a server says or calls something, for people: as it is where that is text, and else escaped
//! as bytea's escape format has it, so that nothing is lost, and no terminal is driven by it.

/// A name, in one line and without tabs. Backslashes are doubled: it stands for nothing else.
pub fn name(bytes: &[u8]) -> String {
    escape(bytes, |letter| match letter {
        '\\' => Some("\\\\"),
        _ => None,
    })
}

/// A message, whose lines and backslashes stay as they are.
pub fn message(bytes: &[u8]) -> String {
    escape(bytes, |letter| match letter {
        '\n' => Some("\n"),
        '\t' => Some("\t"),
        '\\' => Some("\\"),
        _ => None,
    })
}

/// Letters that `special` does not know stay, unless they are control characters.
fn escape(bytes: &[u8], special: impl Fn(char) -> Option<&'static str>) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match special(letter) {
                Some(text) => shown.push_str(text),
                None if letter.is_control() => {
                    push_octal(&mut shown, letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                None => shown.push(letter),
            }
        }
        push_octal(&mut shown, chunk.invalid());
    }
    shown
}

fn push_octal(shown: &mut String, bytes: &[u8]) {
    for byte in bytes {
        shown.push_str(&format!("\\{byte:03o}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_can_be_told_apart() {
        for (bytes, expected) in [
            (&b"public.t"[..], "public.t"),
            ("\"Maße\"".as_bytes(), "\"Maße\""),
            (b"Ma\xdfe", "Ma\\337e"),
            (b"a\\337", "a\\\\337"),
            (b"a\tb\n\x1b[2J", "a\\011b\\012\\033[2J"),
            ("\u{85}".as_bytes(), "\\302\\205"),
        ] {
            assert_eq!(name(bytes), expected);
        }
    }

    #[test]
    fn a_message_keeps_its_lines() {
        let bytes = b"could not \xdf\nHINT:\t\\ \x1b[2J\r";
        assert_eq!(message(bytes), "could not \\337\nHINT:\t\\ \\033[2J\\015");
    }
}
