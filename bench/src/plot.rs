//! Pictures of a file with results: commits a second by the number of threads, and latencies by percentile, stock SQLite beside
//! pwal, a panel for each kind of sync; and transactions beside each other beside those one at a time, a panel for each load.

use crate::Error;
use crate::case::{Case, Load, delay};
use crate::results::{LineResults, Results};
use crate::seen::{Seen, median};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::path::Path;

const STOCK: RGBColor = RGBColor(150, 150, 150);
const PWAL: RGBColor = RGBColor(31, 97, 171);
const CONCURRENT: RGBColor = RGBColor(214, 118, 26);
/// Of the bars of a column, with their names.
type Legend = &'static [(RGBColor, &'static str)];
const SIDES: Legend = &[(STOCK, "stock SQLite"), (PWAL, "pwal")];
const WRITERS: Legend = &[(STOCK, "stock SQLite"), (PWAL, "pwal, serial"), (CONCURRENT, "pwal, concurrent")];
/// The part of a column that its bars have together.
const BARS: f64 = 0.72;
/// Of a panel, and of what is above and below the panels.
const PANEL: (u32, u32) = (320, 278);
const HEAD: u32 = 28;
const FOOT: u32 = 24;
/// Threads whose latencies are shown, if they were measured.
const LATENCIES_OF: usize = 8;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws `X.json` as `X.svg` and `X-latency.svg`, if it has inserts by threads on stock and on pwal, and as `X-writers.svg`, if it has loads
/// with both settings of `parallel_wal_writers`.
pub fn draw_beside(results: &Path) -> Result<(), Error> {
    let Results { machine, lines } = Results::read(results)?;
    let machine = machine.to_string();
    let named = |suffix: &str| {
        let stem = results.file_stem().unwrap_or_default().to_string_lossy();
        results.with_file_name(format!("{stem}{suffix}.svg"))
    };
    let failed =
        |error: Box<dyn std::error::Error>| Error::Results { path: results.to_owned(), what: error.to_string() };
    let inserts = panels(&lines);
    if !inserts.is_empty() {
        let head = "autocommit inserts a second, one database:";
        picture(&named(""), (head, SIDES), &machine, &inserts, throughput).map_err(failed)?;
        let head = "latency of autocommit inserts:";
        picture(&named("-latency"), (head, SIDES), &machine, &inserts, latency).map_err(failed)?;
    }
    let loads = panels_of_writers(&lines);
    if !loads.is_empty() {
        let head = "commits a second, one database:";
        picture(&named("-writers"), (head, WRITERS), &machine, &loads, writers).map_err(failed)?;
    }
    Ok(())
}

/// One load of one process by numbers of threads.
struct Panel<'a> {
    title: String,
    lines: Vec<&'a LineResults>,
}

fn panels(lines: &[LineResults]) -> Vec<Panel<'_>> {
    let is_shown = |line: &&LineResults| {
        let Case { load, processes, mode, .. } = &line.case;
        line.sides == ["stock", "pwal"] && *load == Load::Insert && *processes == 1 && mode == "auto"
    };
    let mut panels: Vec<Panel> = Vec::new();
    for line in lines.iter().filter(is_shown) {
        let title = match line.case.delay_us {
            0 => line.case.synchronous.clone(),
            us => format!("{}, each sync {} longer", line.case.synchronous, delay(us)),
        };
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel { title, lines: vec![line] }),
        }
    }
    panels
}

/// A panel for each load, with the lines that compare its transactions beside each other with stock, and with those one at a time.
fn panels_of_writers(lines: &[LineResults]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel> = Vec::new();
    let is_beside = |line: &&LineResults| line.case.processes == 1 && line.case.delay_us == 0;
    let compared = |line: &&LineResults| line.sides == ["serial", "concurrent"];
    for line in lines.iter().filter(is_beside).filter(compared) {
        let title = format!("{}, {}", line.case.load.name(), line.case.synchronous);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel { title, lines: vec![line] }),
        }
    }
    let is_with_stock = |line: &&LineResults| line.sides == ["stock", "pwal"] && line.case.writers == "concurrent";
    for panel in &mut panels {
        let case = &panel.lines[0].case;
        let is_of = |line: &&LineResults| line.case.load == case.load && line.case.synchronous == case.synchronous;
        panel.lines.extend(lines.iter().filter(is_beside).filter(is_with_stock).filter(is_of));
    }
    panels
}

fn picture(
    path: &Path,
    (head, legend): (&str, Legend),
    machine: &str,
    panels: &[Panel],
    draw: fn(&Area, &Panel) -> Drawn,
) -> Drawn {
    let size = (PANEL.0 * panels.len().max(2) as u32, HEAD + PANEL.1 + FOOT);
    let picture = SVGBackend::new(path, size).into_drawing_area();
    picture.fill(&WHITE)?;
    let (above, rest) = picture.split_vertically(HEAD);
    let style = ("sans-serif", 14).into_text_style(&above);
    above.draw_text(head, &style, (12, 9))?;
    for (x, (color, name)) in (330..).step_by(130).zip(legend) {
        above.draw(&Rectangle::new([(x, 9), (x + 12, 21)], color.filled()))?;
        above.draw_text(name, &style, (x + 18, 9))?;
    }
    let (body, foot) = rest.split_vertically(PANEL.1);
    let text = format!("median, lowest and highest of runs in turns; {machine}");
    foot.draw_text(&text, &("sans-serif", 11).into_text_style(&foot), (12, 6))?;
    for (area, panel) in body.split_evenly((1, panels.len())).iter().zip(panels) {
        draw(area, panel)?;
    }
    picture.present()?;
    Ok(())
}

/// Lowest, median, highest of the runs of a side.
fn three(runs: &[Seen], pick: impl Fn(&Seen) -> Option<f64>) -> Option<[f64; 3]> {
    let values: Vec<f64> = runs.iter().filter_map(pick).collect();
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    Some([lowest, median(&values)?, values.iter().copied().fold(0.0, f64::max)])
}

/// Words below the columns; the places are of the whole picture.
fn label_columns(area: &Area, labels: impl Iterator<Item = ((i32, i32), String)>) -> Drawn {
    let base = area.get_base_pixel();
    for ((x, y), label) in labels {
        area.draw_text(&label, &("sans-serif", 13).into_text_style(area), (x - base.0, y - base.1 + 5))?;
    }
    Ok(())
}

/// Lines for the values, whose labels `value` writes, and what the columns are.
fn draw_mesh<Y>(chart: &mut Chart<'_, Y>, columns: &str, value: &dyn Fn(&f64) -> String) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(WHITE).x_labels(0).y_labels(6).x_desc(columns).y_label_formatter(&value);
    Ok(mesh.draw()?)
}

/// The rates of a side: lowest, median, highest.
fn rates(line: &LineResults, side: usize) -> Option<[f64; 3]> {
    three(&line.runs[side], |seen| Some(seen.rate))
}

/// Stock and pwal, by the number of threads.
fn throughput(area: &Area, panel: &Panel) -> Drawn {
    let column = |line: &&LineResults| Some((line.case.threads, vec![rates(line, 0)?, rates(line, 1)?]));
    bars(area, &panel.title, SIDES, &panel.lines.iter().filter_map(column).collect::<Vec<_>>())
}

/// Stock, serial and concurrent, by the number of threads.
fn writers(area: &Area, panel: &Panel) -> Drawn {
    let (beside, stock): (Vec<&LineResults>, Vec<&LineResults>) =
        panel.lines.iter().partition(|line| line.sides == ["serial", "concurrent"]);
    let column = |line: &&LineResults| {
        let stock = stock.iter().find(|stock| stock.case.threads == line.case.threads)?;
        Some((line.case.threads, vec![rates(stock, 0)?, rates(line, 0)?, rates(line, 1)?]))
    };
    bars(area, &panel.title, WRITERS, &beside.iter().filter_map(column).collect::<Vec<_>>())
}

/// Bars for each number of threads, with the spread of the runs and the ratio of the medians of the last two.
fn bars(area: &Area, title: &str, legend: Legend, columns: &[(usize, Vec<[f64; 3]>)]) -> Drawn {
    let highest = |bars: &[[f64; 3]]| bars.iter().map(|rates| rates[2]).fold(0.0, f64::max);
    let top = columns.iter().map(|(_, bars)| highest(bars)).fold(0.0, f64::max) * 1.15;
    let width = BARS / legend.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..columns.len() as f64, 0.0..top)?;
    draw_mesh(&mut chart, "threads", &|rate| format!("{:.0}k", rate / 1000.0))?;
    for (column, (_, bars)) in columns.iter().enumerate() {
        for (bar, (rates, (color, _))) in bars.iter().zip(legend).enumerate() {
            let left = column as f64 + (1.0 - BARS) / 2.0 + bar as f64 * width;
            chart.draw_series([Rectangle::new([(left, 0.0), (left + width, rates[1])], color.filled())])?;
            let middle = left + width / 2.0;
            chart.draw_series([PathElement::new([(middle, rates[0]), (middle, rates[2])], BLACK)])?;
        }
        let Some([.., before, last]) = bars.get(..) else { continue };
        let ratio = format!("{:.1}x", last[1] / before[1]);
        let place = (column as f64 + 0.36, highest(bars) + top * 0.06);
        chart.draw_series([Text::new(ratio, place, ("sans-serif", 13))])?;
    }
    let at = |column: usize| chart.backend_coord(&(column as f64 + 0.42, 0.0));
    label_columns(area, columns.iter().enumerate().map(|(column, (threads, ..))| (at(column), threads.to_string())))
}

/// A curve for each side, with the spread of the runs, over percentiles that are equally far apart.
fn latency(area: &Area, panel: &Panel) -> Drawn {
    let line = panel.lines.iter().find(|line| line.case.threads == LATENCIES_OF).or(panel.lines.last());
    let Some(line) = line else { return Ok(()) };
    let seen = line.runs[1].first();
    let percents: Vec<f64> = seen.iter().flat_map(|seen| seen.latency_us.iter().map(|(percent, _)| *percent)).collect();
    let curve = |side: usize| -> Option<Vec<[f64; 3]>> {
        percents.iter().map(|percent| three(&line.runs[side], |seen| seen.percentile(*percent))).collect()
    };
    let (Some(stock), Some(pwal)) = (curve(0), curve(1)) else { return Ok(()) };
    let all = || stock.iter().chain(&pwal).flatten().copied();
    let (bottom, top) = (all().fold(f64::INFINITY, f64::min) * 0.7, all().fold(0.0, f64::max) * 1.4);
    let threads = if line.case.threads == 1 { "thread" } else { "threads" };
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, {} {threads}", panel.title, line.case.threads), ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.4..percents.len() as f64 - 0.6, (bottom..top).log_scale())?;
    let time = |us: &f64| if *us < 1000.0 { format!("{us:.0} us") } else { format!("{:.0} ms", us / 1000.0) };
    draw_mesh(&mut chart, "percent of the commits", &time)?;
    for (color, points) in [(STOCK, &stock), (PWAL, &pwal)] {
        let middle = points.iter().enumerate().map(|(column, point)| (column as f64, point[1]));
        chart.draw_series(LineSeries::new(middle, color.stroke_width(2)).point_size(3))?;
        for (column, [lowest, _, highest]) in points.iter().enumerate() {
            let spread = [(column as f64, *lowest), (column as f64, *highest)];
            chart.draw_series([PathElement::new(spread, color)])?;
        }
    }
    let name = |percent: f64| if percent >= 100.0 { "longest".to_owned() } else { percent.to_string() };
    let at = |column: usize| chart.backend_coord(&(column as f64 - 0.15, bottom));
    label_columns(area, percents.iter().enumerate().map(|(column, percent)| (at(column), name(*percent))))
}
