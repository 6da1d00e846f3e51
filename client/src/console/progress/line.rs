//! Schedule of the progress display.

use std::time::{Duration, Instant};

use super::view::{Observer, View};
use super::{Counters, Phase, json, text};
use crate::cli::configuration::ProgressFormat;
use crate::console::messages;

/// Interval on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(500);
/// Interval without a terminal.
const WITHOUT_TERMINAL: Duration = Duration::from_secs(5);
/// Interval of JSON lines.
const FOR_PROGRAMS: Duration = Duration::from_secs(1);

/// Periodic progress display.
#[derive(Debug)]
pub struct Line {
    format: Option<ProgressFormat>,
    began: Instant,
    observer: Observer,
    shown: Option<(Duration, Phase)>,
}

impl Line {
    /// Starts the clock. Without a format nothing is displayed.
    pub fn begin(format: Option<ProgressFormat>) -> Self {
        Self {
            format,
            began: Instant::now(),
            observer: Observer::default(),
            shown: None,
        }
    }

    /// Takes a snapshot and displays it if the interval has elapsed.
    pub fn show(&mut self, counters: &Counters) {
        let Some(format) = self.format else { return };
        let view = self.observer.look(counters, self.began.elapsed());
        let pause = match format {
            ProgressFormat::Json => FOR_PROGRAMS,
            ProgressFormat::Text if messages::on_terminal() => ON_TERMINAL,
            ProgressFormat::Text => WITHOUT_TERMINAL,
        };
        let is_time = self.shown.is_none_or(|(time, phase)| {
            phase != view.phase || view.elapsed.saturating_sub(time) >= pause
        });
        if is_time || messages::is_resized() {
            self.shown = Some((view.elapsed, view.phase));
            write(format, &view);
        }
    }

    /// Displays the end. On a terminal the line of a complete backup remains, and nothing of a
    /// failed one.
    pub fn finish(mut self, counters: &Counters) {
        let Some(format) = self.format else { return };
        let view = self.observer.look(counters, self.began.elapsed());
        if format == ProgressFormat::Json {
            write(format, &view);
            return;
        }
        messages::clear_lines();
        if view.phase == Phase::Done {
            messages::write_line(&text::plain(&view));
        }
    }
}

fn write(format: ProgressFormat, view: &View) {
    match format {
        ProgressFormat::Json => {
            // Numbers and text always have a form.
            if let Ok(line) = json::line(view) {
                messages::write_line(&line);
            }
        }
        ProgressFormat::Text if messages::on_terminal() => {
            messages::show_lines(|columns, rows| text::lines(view, columns, rows));
        }
        ProgressFormat::Text => messages::write_line(&text::plain(view)),
    }
}
