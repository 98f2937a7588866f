// How figures are written, and the table that they end in.

export const perSecond = (rate) => `${Math.round(rate).toLocaleString('en')}/s`;
export const ms = (micros) => `${(micros / 1000).toFixed(1)} ms`;
export const both = ({ p50, p99 }) => `${ms(p50)} / ${ms(p99)}`;
export const mib = (kib) => `${Math.round(kib / 1024)} MiB`;
export const number = (value) => value.toLocaleString('en');

/** Rows of figures, a column for each system. */
export class Table {
  rows = new Map();

  /** Says what has been measured, and keeps it. */
  add(what, system, figure) {
    console.error(`${system}: ${what}: ${figure}`);
    this.rows.set(what, { ...this.rows.get(what), [system]: figure });
  }

  /** The table in Markdown. */
  print(systems) {
    const line = (cells) => `| ${cells.join(' | ')} |`;
    console.log(line(['measured', ...systems]));
    console.log(`|---|${systems.map(() => '---:|').join('')}`);
    for (const [what, figures] of this.rows) console.log(line([what, ...systems.map((name) => figures[name] ?? '')]));
  }
}
