//! The contents of the dashboard. The colors are the terminal's own and carry no meaning alone, so
//! that dark, light and monochrome terminals all work.

mod curves;

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Constraint::{Fill, Length};
use ratatui::layout::{Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, LineGauge, Paragraph};
use saltecho::load::report::{Grouped, Nanos};
use saltecho::load::{Counts, Interval, Mode, Pace, Phase, Plan, Series, StateCounts};

/// Minimum size for curves; a smaller terminal shows numbers only.
const LEAST: (u16, u16) = (80, 16);
/// Minimum width of the side panels: names, numbers and a bar.
const SIDE: u16 = 30;
/// Height of the connections panel: a line per state, and the frame.
const STATES: u16 = 6 + 2;
/// Seconds to remember: more than a terminal has columns.
const MEMORY: usize = 1000;
/// Added to a time to round it.
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// Names and colors of the latency curves and the numbers above them.
const TIMES: [(&str, Color); 3] =
    [("p50", Color::Green), ("p99", Color::Magenta), ("max", Color::Red)];

/// The state of a load so far.
pub(super) struct View {
    plan: String,
    mode: Mode,
    duration: Duration,
    connections: usize,
    /// The series that the curves show: authentication during ramp-up, then the mode's own.
    series: Series,
    points: VecDeque<Point>,
    /// Counts of the whole run.
    counts: Counts,
    last: Option<Last>,
}

/// One interval in the curves.
struct Point {
    start: f64,
    end: f64,
    rate: f64,
    /// p50, p99 and max in nanoseconds.
    times: Option<[u64; 3]>,
    /// The generator's lateness at p99 in nanoseconds.
    lateness: u64,
}

/// The end of the last interval.
struct Last {
    phase: Phase,
    left: Option<Duration>,
    states: StateCounts,
}

impl View {
    pub(super) fn new(plan: &Plan) -> Self {
        let pace = match plan.pace {
            _ if plan.mode == Mode::Idle => String::new(),
            Pace::Open(rate) => format!(", open {}/s", Grouped(rate.get())),
            Pace::Closed => ", closed".to_owned(),
        };
        let connections = Grouped(plan.connections as u64);
        Self {
            plan: format!(
                " {}  {}{pace}  {connections} connections  {}{} bytes",
                plan.target,
                plan.mode.as_str(),
                if plan.size.is_mixed() { "mean " } else { "" },
                Grouped(plan.size.mean() as u64)
            ),
            mode: plan.mode,
            duration: plan.duration,
            connections: plan.connections,
            series: Series::Auth,
            points: VecDeque::new(),
            counts: Counts::default(),
            last: None,
        }
    }

    pub(super) fn take(&mut self, interval: &Interval) {
        let (counts, phase) = (&interval.record.counts, interval.phase);
        self.counts.merge(counts);
        self.last = Some(Last { phase, left: interval.left, states: interval.states });
        // Answers after the measurement do not belong to the load.
        if matches!(phase, Phase::Prove | Phase::Drain) {
            return;
        }
        let main = self.mode.main_series().filter(|_| phase == Phase::Measure);
        let series = main.unwrap_or(Series::Auth);
        if self.series != series {
            self.series = series;
            self.points.clear();
        }
        let times = interval.record.series(series);
        let number = if series == Series::Auth { counts.authenticated } else { counts.answered };
        self.points.push_back(Point {
            start: interval.start.as_secs_f64(),
            end: (interval.start + interval.length).as_secs_f64(),
            rate: number as f64 / interval.length.as_secs_f64().max(1e-9),
            times: (!times.is_empty()).then(|| {
                [times.value_at_quantile(0.5), times.value_at_quantile(0.99), times.max()]
            }),
            lateness: interval.record.series(Series::Lateness).value_at_quantile(0.99),
        });
        if self.points.len() > MEMORY {
            self.points.pop_front();
        }
    }

    pub(super) fn draw(&self, frame: &mut Frame) {
        let area = frame.area();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            return frame.render_widget(Paragraph::new(self.numbers()), area);
        }
        let [head, gauge, body, foot] =
            Layout::vertical([Length(1), Length(1), Fill(1), Length(1)]).areas(area);
        let side = SIDE.max(area.width / 3);
        let [left, right] = Layout::horizontal([Fill(1), Length(side)]).areas(body);
        let [rate, latency] = Layout::vertical([Fill(2), Fill(3)]).areas(left);
        let [connections, errors] = Layout::vertical([Length(STATES), Fill(1)]).areas(right);
        let title = Line::from(vec![" saltecho load".bold(), self.plan.as_str().into()]);
        frame.render_widget(title, head);
        self.draw_gauge(frame, gauge);
        self.draw_rate(frame, rate);
        self.draw_latency(frame, latency);
        self.draw_connections(frame, connections);
        self.draw_errors(frame, errors);
        frame.render_widget(self.foot(), foot);
    }

    /// Lines for a small terminal, the most important first.
    fn numbers(&self) -> Vec<Line<'_>> {
        let states = self.states().by_name().into_iter().filter(|(_, number)| *number > 0);
        let states = states.map(|(name, number)| format!("{} {name}", Grouped(number as u64)));
        vec![
            self.progress().0.into(),
            self.rate().into(),
            self.latency(),
            format!("errors {}", Grouped(self.counts.errors.total())).into(),
            states.collect::<Vec<_>>().join(", ").into(),
            self.plan.trim_start().into(),
        ]
    }

    /// The current phase of the run, and the share of it that is over.
    fn progress(&self) -> (String, f64) {
        let Some(Last { phase, left, states }) = &self.last else {
            return ("starting".to_owned(), 0.0);
        };
        let name = phase.as_str();
        match left {
            _ if *phase == Phase::Prove => {
                let (done, all) = (self.counts.answered, self.counts.authenticated);
                let text = format!("{name}: {} of {} answered", Grouped(done), Grouped(all));
                (text, done as f64 / all.max(1) as f64)
            }
            None => {
                let done = states.quiet + states.busy + states.ended;
                let all = Grouped(self.connections as u64);
                let text = format!("{name}: {} of {all} connections", Grouped(done as u64));
                (text, done as f64 / self.connections as f64)
            }
            Some(left) => {
                let whole = Duration::from_secs((*left + HALF_A_SECOND).as_secs());
                let all = if *phase == Phase::Drain { Plan::GRACE } else { self.duration };
                let over = 1.0 - left.as_secs_f64() / all.as_secs_f64();
                (format!("{name}: {} left", humantime::format_duration(whole)), over)
            }
        }
    }

    fn states(&self) -> StateCounts {
        self.last.as_ref().map(|last| last.states).unwrap_or_default()
    }

    fn rate(&self) -> String {
        let what = match self.series {
            Series::Auth => "connections",
            Series::Cycle => "cycles",
            _ => "messages",
        };
        match self.points.back() {
            Some(point) => format!("rate  {} {what}/s", whole(point.rate)),
            None => "rate".to_owned(),
        }
    }

    fn latency(&self) -> Line<'static> {
        let times = self.points.back().and_then(|point| point.times);
        let numbers = TIMES.into_iter().enumerate().map(|(i, (name, color))| {
            let time = times.map_or_else(|| "-".to_owned(), |times| Nanos(times[i]).to_string());
            Span::styled(format!("  {name} {time}"), color)
        });
        Line::from_iter([Span::raw("latency")].into_iter().chain(numbers))
    }

    fn foot(&self) -> Line<'static> {
        let lateness = self.points.back().map(|point| Nanos(point.lateness).to_string());
        let lateness = lateness.unwrap_or_else(|| "-".to_owned());
        Line::raw(format!(
            " generator lateness: p99 {lateness}    Ctrl-C stops early and still reports"
        ))
    }

    fn draw_gauge(&self, frame: &mut Frame, area: Rect) {
        let (text, ratio) = self.progress();
        let gauge = LineGauge::default()
            .label(format!(" {text} "))
            .ratio(ratio.clamp(0.0, 1.0))
            .filled_symbol("━")
            .unfilled_symbol("─")
            .filled_style(Style::new().green().bold());
        frame.render_widget(gauge, area);
    }

    fn draw_connections(&self, frame: &mut Frame, area: Rect) {
        let digits = Grouped(self.connections as u64).to_string().len();
        let room = usize::from(area.width.saturating_sub(2 + 17)).saturating_sub(digits);
        let lines = self.states().by_name().map(|(name, number)| {
            let length = (number * room).div_ceil(self.connections).min(room);
            let number = Grouped(number as u64);
            let text = format!(" {name:<14} {number:>digits$} ");
            Line::from(vec![text.into(), "█".repeat(length).green()])
        });
        let title = format!("connections  {}", Grouped(self.connections as u64));
        frame.render_widget(Paragraph::new(lines.to_vec()).block(titled(title)), area);
    }

    fn draw_errors(&self, frame: &mut Frame, area: Rect) {
        let errors = &self.counts.errors;
        let mut kinds: Vec<_> = errors.occurred().collect();
        kinds.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let lines = kinds.into_iter().map(|(kind, number)| {
            Line::raw(format!(" {:<15} {:>7}", kind.as_str(), Grouped(number)))
        });
        let title = format!("errors  {}", Grouped(errors.total()));
        let title = match errors.total() {
            0 => Line::raw(title),
            _ => Line::from(title.red().bold()),
        };
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(titled(title)), area);
    }
}

fn titled<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    let mut title = title.into();
    title.spans.insert(0, " ".into());
    title.push_span(" ");
    Block::bordered().title(title)
}

/// A rounded number with its thousands separated.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Rates are far from the limits.
fn whole(number: f64) -> Grouped {
    Grouped(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use saltecho::auth::{Key, MacAlgorithm};
    use saltecho::load::{ErrorKind, Record};

    use super::*;

    fn plan(mode: Mode) -> Plan {
        let target = "127.0.0.1:9999".parse().unwrap();
        let pace = Pace::Open(NonZeroU64::new(20_000).unwrap());
        let mut plan = Plan::new(target, Key::demo(), MacAlgorithm::Md5);
        (plan.mode, plan.pace, plan.connections) = (mode, pace, 1000);
        plan
    }

    /// Second `number` of a run, with `answered` messages that each took `micros`.
    fn second(phase: Phase, number: u64, answered: u64, micros: u64) -> Interval {
        let mut record = Record::new();
        for series in [Series::Auth, Series::Echo, Series::Cycle] {
            record.note(series, Duration::from_micros(micros));
        }
        record.note(Series::Lateness, Duration::from_micros(7));
        record.counts.answered = answered;
        record.counts.authenticated = 300;
        let mut interval = Interval::default();
        interval.start = Duration::from_secs(number);
        interval.length = Duration::from_secs(1);
        (interval.phase, interval.record) = (phase, record);
        let states = &mut interval.states;
        (states.quiet, states.busy, states.ended) = (590, 400, 10);
        interval.left = (phase != Phase::Ramp).then(|| Duration::from_secs(30 - number));
        interval
    }

    /// The contents of a terminal of this size.
    fn screen(view: &View, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[track_caller]
    fn assert_shown(screen: &str, words: &[&str]) {
        for word in words {
            assert!(screen.contains(word), "no {word:?} in\n{screen}");
        }
    }

    #[test]
    fn the_dashboard_shows_all_figures() {
        let mut view = View::new(&plan(Mode::Echo));
        for number in 0..13 {
            let mut second = second(Phase::Measure, number, 19_998, 1500);
            second.record.counts.errors.add(ErrorKind::Reset, 3);
            second.record.counts.errors.add(ErrorKind::EchoTimeout, 100);
            for _ in 0..2 {
                second.record.note(Series::Echo, Duration::from_micros(100));
            }
            view.take(&second);
        }
        for size in [(80, 24), (100, 30), (300, 90)] {
            let screen = screen(&view, size);
            assert_shown(
                &screen,
                &[
                    "saltecho load 127.0.0.1:9999  echo, open 20,000/s  1,000 connections  64 bytes",
                    "measure: 18s left",
                    "rate  19,998 messages/s",
                    "latency  p50 100 µs  p99 1.50 ms  max 1.50 ms",
                    "errors  1,339",
                    "echo_timeout      1,300",
                    "reset                39",
                    "connections  1,000",
                    "waiting            0",
                    "connecting         0",
                    "authenticating     0",
                    "quiet            590 ██",
                    "busy             400 ██",
                    "ended             10 █",
                    "generator lateness: p99 7.00 µs",
                    "Ctrl-C stops early",
                    // The curves' axes.
                    "│20,000│",
                    "│100 µs│",
                    "│10 ms │",
                    "20 s",
                ],
            );
            // Two fifths of the time are over, and as much of the line.
            let gauge = screen.lines().find(|line| line.contains("left")).unwrap();
            let [over, all] = [vec!['━'], vec!['━', '─']]
                .map(|signs| gauge.chars().filter(|sign| signs.contains(sign)).count());
            assert!((over * 10).abs_diff(all * 4) <= 10, "{over} of {all}: {gauge}");
        }
    }

    #[test]
    fn curves_have_the_height_of_their_numbers() {
        let mut view = View::new(&plan(Mode::Echo));
        for number in 0..20 {
            let (rate, micros) = if number < 10 { (10_000, 10) } else { (2_500, 1_000) };
            view.take(&second(Phase::Measure, number, rate, micros));
        }
        let screen = screen(&view, (80, 24));
        // Whether something is drawn in the first and in the second half of a line.
        let halves = |line: &str| {
            let columns: Vec<char> = line.chars().skip(10).take(39).collect();
            let is_dot = |sign: &char| ('\u{2801}'..='\u{28ff}').contains(sign);
            [columns[..18].iter().any(is_dot), columns[21..].iter().any(is_dot)]
        };
        let lines: Vec<_> = screen.lines().map(halves).collect();
        let [top_of_rate, bottom_of_rate] = [3, 6].map(|row| lines[row]);
        assert_eq!((top_of_rate, bottom_of_rate), ([true, false], [true, true]), "{screen}");
        // From 10 us at the bottom to 1 ms, one axis label below the top of 10 ms.
        let first = |half: usize| lines[11..].iter().position(|line| line[half]).unwrap();
        assert!(first(1) + 4 < first(0), "{screen}");
    }

    #[test]
    fn the_curves_show_connections_first_and_messages_then() {
        for (mode, unit, answered) in
            [(Mode::Echo, "messages/s", 20), (Mode::Connect, "cycles/s", 20)]
        {
            let mut view = View::new(&plan(mode));
            assert_shown(&screen(&view, (80, 24)), &["starting", "errors  0"]);
            view.take(&second(Phase::Ramp, 0, 0, 2_000));
            let ramp = screen(&view, (80, 24));
            assert_shown(&ramp, &["ramp: 1,000 of 1,000", "300 connections/s", "p99 2.00 ms"]);
            view.take(&second(Phase::Measure, 1, answered, 500));
            let measure = screen(&view, (80, 24));
            assert_shown(&measure, &[&format!("rate  20 {unit}"), "p99 500 µs", "│1 s "]);
            // A second without any answer.
            let mut silence = second(Phase::Measure, 2, 0, 1);
            silence.record = Record::new();
            view.take(&silence);
            assert_shown(&screen(&view, (80, 24)), &[&format!("rate  0 {unit}"), "p50 -  p99 -"]);
            // Answers after the measurement are not in the rate.
            view.take(&second(Phase::Drain, 29, 7, 9_000));
            assert_shown(&screen(&view, (80, 24)), &["drain: 1s left", &format!("  0 {unit}")]);
        }
        let mut view = View::new(&plan(Mode::Idle));
        view.take(&second(Phase::Measure, 0, 0, 2_000));
        assert_shown(&screen(&view, (80, 24)), &["rate  300 connections/s", "p99 2.00 ms"]);
    }

    #[test]
    fn a_small_terminal_shows_the_most_important_numbers() {
        let mut view = View::new(&plan(Mode::Echo));
        // The largest numbers, and every kind of error.
        let mut second = second(Phase::Measure, 0, u64::MAX >> 12, 1);
        second.record.note(Series::Echo, Record::LONGEST);
        for kind in ErrorKind::ALL {
            second.record.counts.errors.add(kind, u64::MAX >> 20);
        }
        second.states.ended = usize::MAX >> 20;
        for number in 0..u64::try_from(MEMORY).unwrap() + 10 {
            second.start = Duration::from_secs(number);
            view.take(&second);
        }
        assert_eq!(view.points.len(), MEMORY);
        for view in [&view, &View::new(&plan(Mode::Echo))] {
            for size in
                [(1, 1), (10, 3), (79, 40), (80, 15), (80, 16), (81, 17), (500, 16), (80, 200)]
            {
                screen(view, size);
            }
        }
        let mut view = View::new(&plan(Mode::Echo));
        view.take(&self::second(Phase::Measure, 12, 19_998, 1500));
        let small = screen(&view, (60, 5));
        assert_shown(&small, &["measure: 18s left", "rate  19,998 messages/s", "p99 1.50 ms"]);
        assert_shown(&small, &["errors 0", "590 quiet, 400 busy, 10 ended"]);
    }
}
