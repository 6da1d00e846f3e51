//! Values as text that the server reads.

/// An array of text, as the server reads it.
pub fn array(elements: &[&[u8]]) -> Vec<u8> {
    let mut text = b"{".to_vec();
    for (number, element) in elements.iter().enumerate() {
        if number > 0 {
            text.push(b',');
        }
        text.push(b'"');
        for &byte in *element {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'"');
    }
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_an_array_are_what_they_were() {
        assert_eq!(array(&[]), b"{}");
        let elements: [&[u8]; 3] = [b"base/5/1", b"a \"b\", \\c}", b"\xe9"];
        let expected = b"{\"base/5/1\",\"a \\\"b\\\", \\\\c}\",\"\xe9\"}";
        assert_eq!(array(&elements), expected);
    }
}
