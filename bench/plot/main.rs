//! Draws results of `cargo bench -p pwal-bench --bench commits -- --json FILE`: commits a second by the number of threads, stock
//! SQLite beside pwal, a panel for each kind of sync.
//!
//!     cargo run -p pwal-bench --bin plot -- docs/measurements/commits.json docs/measurements/commits.svg

use plotters::prelude::*;
use serde_json::Value;
use std::error::Error;
use std::process::ExitCode;

/// The panels: their title, and what the names of their lines begin with.
const PANELS: [(&str, &str); 3] =
    [("FULL", "FULL,"), ("FULL, each sync 100 us slower", "FULL +100 us,"), ("NORMAL", "NORMAL,")];
/// Columns of a panel.
const THREADS: [u32; 4] = [1, 2, 8, 32];
const STOCK: RGBColor = RGBColor(150, 150, 150);
const PWAL: RGBColor = RGBColor(31, 97, 171);

/// Commits a second of one side: lowest, median, highest of its runs.
type Rates = [f64; 3];

/// The rates of stock and of pwal in the line `name`.
fn rates(results: &Value, name: &str) -> Result<(Rates, Rates), String> {
    let lines = results["lines"].as_array().ok_or("no lines in the results")?;
    let line = lines.iter().find(|line| line["name"] == name).ok_or(format!("no line \"{name}\" in the results"))?;
    let of = |side: &str| {
        let runs = line[side]["rate"].as_array().ok_or(format!("\"{name}\" has no rates of {side}"))?;
        let mut runs: Vec<f64> = runs.iter().filter_map(Value::as_f64).collect();
        runs.sort_by(f64::total_cmp);
        match runs[..] {
            [] => Err(format!("\"{name}\" has no runs of {side}")),
            _ => Ok([runs[0], runs[runs.len() / 2], runs[runs.len() - 1]]),
        }
    };
    Ok((of("stock")?, of("other")?))
}

/// One panel: a pair of bars for each number of threads, with the spread of the runs and the ratio of the medians.
fn panel<D: DrawingBackend>(
    area: &DrawingArea<D, plotters::coord::Shift>,
    title: &str,
    columns: &[(Rates, Rates)],
) -> Result<(), Box<dyn Error>>
where
    D::ErrorType: 'static,
{
    let top = columns.iter().flat_map(|(stock, pwal)| [stock[2], pwal[2]]).fold(0.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..THREADS.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(0)
        .y_labels(6)
        .x_desc("threads")
        .y_label_formatter(&|rate| format!("{:.0}k", rate / 1000.0))
        .draw()?;
    for (column, (stock, pwal)) in columns.iter().enumerate() {
        for (from, color, rates) in [(0.14, STOCK, stock), (0.5, PWAL, pwal)] {
            let left = column as f64 + from;
            let bar = [(left, 0.0), (left + 0.36, rates[1])];
            chart.draw_series([Rectangle::new(bar, color.filled())])?;
            chart.draw_series([PathElement::new([(left + 0.18, rates[0]), (left + 0.18, rates[2])], BLACK)])?;
        }
        let text = |text: String, x: f64, y: f64| Text::new(text, (x, y), ("sans-serif", 13));
        let ratio = format!("{:.1}x", pwal[1] / stock[1]);
        chart.draw_series([text(ratio, column as f64 + 0.36, stock[2].max(pwal[2]) + top * 0.06)])?;
    }
    for (column, threads) in THREADS.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(column as f64 + 0.42, 0.0));
        let base = area.get_base_pixel();
        let style = ("sans-serif", 13).into_text_style(area);
        area.draw_text(&threads.to_string(), &style, (x - base.0, y - base.1 + 5))?;
    }
    Ok(())
}

fn draw(from: &str, to: &str) -> Result<(), Box<dyn Error>> {
    let results: Value = serde_json::from_str(&std::fs::read_to_string(from)?)?;
    let picture = SVGBackend::new(to, (960, 330)).into_drawing_area();
    picture.fill(&WHITE)?;
    let (head, rest) = picture.split_vertically(28);
    let style = ("sans-serif", 14).into_text_style(&head);
    head.draw_text("autocommit inserts a second, one database:", &style, (12, 9))?;
    for (x, color, name) in [(330, STOCK, "stock SQLite"), (450, PWAL, "pwal")] {
        head.draw(&Rectangle::new([(x, 9), (x + 12, 21)], color.filled()))?;
        head.draw_text(name, &style, (x + 18, 9))?;
    }
    let (body, foot) = rest.split_vertically(278);
    let machine = results["machine"].as_str().unwrap_or_default();
    foot.draw_text(
        &format!("median, lowest and highest of runs in turns; {machine}"),
        &("sans-serif", 11).into_text_style(&foot),
        (12, 6),
    )?;
    for (area, (title, start)) in body.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        let name = |threads: &u32| format!("{start} {threads} {}", if *threads == 1 { "thread" } else { "threads" });
        let columns: Result<Vec<_>, _> = THREADS.iter().map(|threads| rates(&results, &name(threads))).collect();
        panel(area, title, &columns?)?;
    }
    picture.present()?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &arguments[..] else {
        eprintln!("plot RESULTS.json PICTURE.svg");
        return ExitCode::FAILURE;
    };
    match draw(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plot: {from}: {error}");
            ExitCode::FAILURE
        }
    }
}
