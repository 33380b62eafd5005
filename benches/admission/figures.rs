//! Figures, and how they are told.

use std::{fs, time::Duration};

use serde_json::json;

/// Figures in the order in which they were found.
#[derive(Default)]
pub struct Figures(Vec<(String, f64, &'static str)>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, name: String, value: f64, unit: &'static str) {
        self.0.push((name, value, unit));
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
