//! The result table.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

/// The results so far.
#[derive(Default)]
pub(crate) struct Figures {
    rows: Vec<[String; 4]>,
}

impl Figures {
    /// A figure, its ratio to the raw loop or to another named figure, and its target.
    pub(crate) fn add(&mut self, what: &str, figure: String, ratio: String, target: &str) {
        eprintln!("{what}: {figure}  {ratio}");
        self.rows.push([what.to_owned(), figure, ratio, target.to_owned()]);
    }

    /// A rate, compared with that of the raw loop.
    pub(crate) fn rate(&mut self, what: &str, rate: f64, raw: f64, target: &str) {
        let ratio = format!("{:.2} of {raw:.0}/s", rate / raw);
        self.add(what, format!("{rate:.0}/s"), ratio, target);
    }

    /// A figure that is not compared with the raw loop.
    pub(crate) fn plain(&mut self, what: &str, figure: String, target: &str) {
        self.add(what, figure, String::new(), target);
    }

    /// Prints it.
    pub(crate) fn print(self) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["measured", "figure", "ratio", "to reach"]);
        table.add_rows(self.rows);
        for column in [1, 2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
    }
}

/// Microseconds as milliseconds.
pub(crate) fn ms(micros: impl Into<f64>) -> String {
    format!("{:.1} ms", micros.into() / 1000.0)
}

/// KiB as MiB.
#[expect(clippy::cast_precision_loss, reason = "a size needs no more than its first digits")]
pub(crate) fn mib(kib: u64) -> String {
    format!("{:.0} MiB", kib as f64 / 1024.0)
}
