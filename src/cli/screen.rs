//! Standard output as a terminal: size, colours, and redrawing in place.

use std::io::{self, Write as _};

use console::{Style, Term, truncate_str};

/// The colour of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Head,
    Good,
    Warning,
    Bad,
}

/// Standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    /// Columns; `None` if it is not a terminal and lines may have any length.
    pub(super) width: Option<u16>,
    /// Lines of the terminal.
    height: usize,
    colours: bool,
}

impl Screen {
    /// The screen as it is now; it may be resized at any time.
    pub(super) fn now() -> Self {
        let term = Term::stdout();
        let size = term.size_checked().filter(|(height, width)| *height > 0 && *width > 0);
        let (Some((height, width)), true) = (size, term.is_term()) else {
            return Self { width: None, height: 0, colours: false };
        };
        // Set to a non-empty value (https://no-color.org).
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = !unwanted && console::colors_enabled();
        Self { width: Some(width), height: height.into(), colours }
    }

    /// Whether it is a terminal.
    pub(super) fn is_terminal(self) -> bool {
        self.width.is_some()
    }

    /// A line truncated to the width, in the colour of its tone.
    pub(super) fn line(self, tone: Tone, text: &str) -> String {
        let text = text.trim_end();
        let text = match self.width {
            Some(width) => truncate_str(text, width.into(), "…"),
            None => text.into(),
        };
        let style = match tone {
            Tone::Plain => return text.into_owned(),
            Tone::Head => Style::new().bold(),
            Tone::Good => Style::new().green(),
            Tone::Warning => Style::new().yellow(),
            Tone::Bad => Style::new().red(),
        };
        style.force_styling(self.colours).apply_to(text).to_string()
    }
}

/// Whether a text can be redrawn in place. A console of Windows must be switched to interpret escape
/// sequences, which `console` does only for colours; old ones cannot.
fn is_redrawn(screen: Screen) -> bool {
    #[cfg(windows)]
    let knows_escapes = anstyle_query::windows::enable_ansi_colors().unwrap_or(true);
    #[cfg(not(windows))]
    let knows_escapes = true;
    screen.is_terminal() && knows_escapes
}

/// Redraws a text in place. Restores the terminal on drop.
pub(super) struct LiveView {
    out: io::Stdout,
}

impl LiveView {
    /// Takes over the whole terminal, if there is one.
    pub(super) fn begin() -> io::Result<Self> {
        let mut out = io::stdout();
        if is_redrawn(Screen::now()) {
            // The alternate screen, without a cursor.
            out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Self { out })
    }

    /// Draws a text; lines that do not fit are omitted. Without a terminal, texts are separated by an
    /// empty line.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let screen = Screen::now();
        let mut view = String::new();
        if is_redrawn(screen) {
            view.push_str("\x1b[H");
            let last = screen.height.saturating_sub(1);
            for (at, line) in lines.iter().take(screen.height).enumerate() {
                let cut = at == last && lines.len() > screen.height;
                view.push_str(if cut { "…" } else { line });
                view.push_str(if at == last { "\x1b[K" } else { "\x1b[K\r\n" });
            }
            view.push_str("\x1b[J");
        } else {
            for line in lines {
                view.push_str(line);
                view.push('\n');
            }
            view.push('\n');
        }
        self.out.write_all(view.as_bytes())?;
        self.out.flush()
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        if is_redrawn(Screen::now()) {
            // Ignore errors: the terminal may be gone.
            drop(self.out.write_all(b"\x1b[?25h\x1b[?1049l"));
            drop(self.out.flush());
        }
    }
}
