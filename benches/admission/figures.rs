//! Figures, and how they are told.

use std::{fs, time::Duration};

use serde_json::json;

/// Figures in the order in which they were found.
#[derive(Default)]
pub struct Figures(Vec<(String, f64, &'static str)>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push((name.into(), value, unit));
    }

    /// One JSON object a line; four significant digits, which is more than is repeatable.
    pub fn print(&self) {
        for (name, value, unit) in &self.0 {
            let value: f64 = format!("{value:.3e}").parse().unwrap();
            println!("{}", json!({ "name": name, "value": value, "unit": unit }));
        }
    }
}

/// The middle one; the mean of the two in the middle where their number is even.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The value that `share` of all do not exceed. They come sorted.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index of a short list")]
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}

/// The time that this process' threads of a name have been on a core, as the kernel counts it.
pub fn time_on_core(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("the kernel's list of threads").filter_map(Result::ok);
    threads
        .filter(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

/// Milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of things.
pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A size of this process in MiB, by its name in the kernel's words: `VmRSS`, `VmHWM`.
pub fn resident(what: &str) -> f64 {
    resident_of("self", what)
}

/// The same of a process.
pub fn resident_of(process: &str, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the kernel's word about a process");
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number of kB") / 1_024.0
}
