//! Charts as SVG, drawn by the server. The numbers are also shown as text.

use std::fmt::Write as _;

const WIDTH: u32 = 720;
const HEIGHT: u32 = 96;

/// A bar chart: for each place the parts of its bar, from the bottom up. Each part has its class.
pub(super) fn bars(places: &[[u32; 2]], classes: [&str; 2], label: &str) -> String {
    let most = places.iter().map(|parts| parts.iter().sum::<u32>()).max().unwrap_or(0).max(1);
    let count = u32::try_from(places.len()).unwrap_or(u32::MAX).max(1);
    let mut svg = String::new();
    let label = escaped(label);
    write!(
        svg,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">"
    ).unwrap_or_default();
    for (class, part) in classes.into_iter().zip(0..) {
        let mut path = String::new();
        for (parts, at) in places.iter().zip(0..) {
            let below: u32 = parts[..part].iter().sum();
            let height = |value: u32| f64::from(value) * f64::from(HEIGHT) / f64::from(most);
            let (x, width) = (at * WIDTH / count, WIDTH / count);
            if parts[part] > 0 {
                let (y, tall) =
                    (f64::from(HEIGHT) - height(below + parts[part]), height(parts[part]));
                write!(path, "M{x} {y:.1}h{}v{tall:.1}h-{}z", width.max(2) - 1, width.max(2) - 1)
                    .unwrap_or_default();
            }
        }
        write!(svg, "<path class=\"{class}\" d=\"{path}\"/>").unwrap_or_default();
    }
    svg.push_str("</svg>");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_fills_the_chart_and_an_empty_one_draws_nothing() {
        let svg = bars(&[[0, 0], [3, 1], [2, 0]], ["good", "bad"], "a<b");
        assert!(svg.contains("aria-label=\"a&lt;b\""));
        assert!(svg.contains("class=\"good\" d=\"M240 24.0h239v72.0h-239zM480 48.0"), "{svg}");
        assert!(svg.contains("class=\"bad\" d=\"M240 0.0h239v24.0h-239z\""), "{svg}");
        assert!(bars(&[[0, 0]], ["good", "bad"], "").contains("class=\"good\" d=\"\""));
    }
}
