//! The last lines of a terminal, drawn over themselves: by the control sequences that all terminals
//! of today have.
//!
//! The cursor rests behind the last of them. When a terminal becomes narrower than they are, some
//! show such a line in two rows from then on and some cut it, which cannot be told from here. They
//! are taken for those that cut: with the others a row of old progress may stay, while the other way
//! round messages would be lost.

use std::fs::File;

/// What a terminal is taken for that does not know its size.
const USUAL_SIZE: (usize, usize) = (80, 24);
/// Columns that are left free behind a line: what is typed appears there, such as `^C`.
const MARGIN: usize = 3;

/// Lines that are displayed.
#[derive(Debug, Default)]
pub struct TerminalLines {
    lines: Vec<String>,
    /// Columns and rows at that time.
    size: (usize, usize),
}

impl TerminalLines {
    /// Whether the terminal has another size than when it was drawn on.
    pub fn is_resized(&self, terminal: &File) -> bool {
        !self.lines.is_empty() && self.size != size(terminal)
    }

    /// Replaces the displayed lines by those for the current width and height.
    pub fn draw(
        &mut self,
        terminal: &File,
        lines: impl FnOnce(usize, usize) -> Vec<String>,
    ) -> String {
        self.size = size(terminal);
        self.redraw(lines)
    }

    /// Erases the lines.
    pub fn clear(&mut self, terminal: &File) -> String {
        self.size = size(terminal);
        let text = format!("{}\x1b[J", self.to_first());
        if std::mem::take(&mut self.lines).is_empty() {
            String::new()
        } else {
            text
        }
    }

    /// Writes text where the lines are, and these below it.
    pub fn above(&mut self, terminal: &File, text: &str) -> String {
        let lines = self.lines.clone();
        let mut all = self.clear(terminal);
        all.push_str(text);
        if !lines.is_empty() {
            all.push_str(&self.redraw(|_, _| lines));
        }
        all
    }

    fn redraw(&mut self, lines: impl FnOnce(usize, usize) -> Vec<String>) -> String {
        let mut text = self.to_first();
        let (columns, rows) = self.size;
        let columns = columns.saturating_sub(MARGIN).max(1);
        let cut = |line: String| line.chars().take(columns).collect::<String>();
        let lines = lines(columns, rows).into_iter().map(cut);
        self.lines = lines.take(rows.max(1)).collect();
        for (number, line) in self.lines.iter().enumerate() {
            text.push_str(if number == 0 { "" } else { "\r\n" });
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        text
    }

    /// Moves the cursor to the first line, or of a terminal that is not so high any more to the top.
    fn to_first(&self) -> String {
        match self.lines.len().min(self.size.1) {
            0 if self.lines.is_empty() => String::new(),
            0 | 1 => "\r".to_owned(),
            rows => format!("\r\x1b[{}A", rows - 1),
        }
    }
}

/// Columns and rows.
fn size(terminal: &File) -> (usize, usize) {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => USUAL_SIZE,
    }
}
