//! `lazaretto image`: how references are read.

use std::io::{self, BufRead, Read as _, Write};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::Exit;
use crate::image::Reference;

/// Bytes of one line of standard input. No reference is nearly as long.
const LONGEST_LINE: usize = 4_096;

#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    /// An image reference as a pod names it; `-` reads one a line from standard input
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,
}

/// One line of the output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Read {
        input: &'a str,
        registry: &'a str,
        repository: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        canonical: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    Refused {
        input: &'a str,
        error: String,
    },
}

pub(super) fn run(arguments: &ImageArguments) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let mut all_read = true;
    let end = arguments.references.iter().try_for_each(|text| match text.as_str() {
        "-" => lines(io::stdin().lock(), |text| one(text, &mut out, &mut all_read)),
        text => one(text, &mut out, &mut all_read),
    });
    match end {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        end => end.context("cannot read or write references")?,
    }
    Ok(if all_read { Exit::Done } else { Exit::Refused })
}

fn one(text: &str, out: &mut impl Write, all_read: &mut bool) -> io::Result<()> {
    let reference = if text.len() > LONGEST_LINE { Err(format!("it has more than {LONGEST_LINE} bytes")) } else { read(text) };
    let line = match &reference {
        Ok(reference) => Line::Read {
            input: text,
            registry: reference.registry(),
            repository: reference.repository(),
            tag: reference.tag(),
            digest: reference.digest().map(ToString::to_string),
            canonical: reference.to_string(),
            name: reference.subject().map(|subject| subject.object_name()),
        },
        Err(error) => Line::Refused { input: text, error: error.clone() },
    };
    *all_read &= reference.is_ok();
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

fn read(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|error| error.to_string())
}

/// Each line without its end, and of one that is too long only so much that it is seen to be. One line in is one line out, so that a
/// program may ask and answer in turn.
fn lines(mut from: impl BufRead, mut each: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        if (&mut from).take(LONGEST_LINE as u64 + 2).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LONGEST_LINE {
            from.skip_until(b'\n')?;
            line.truncate(LONGEST_LINE + 1);
        }
        each(&String::from_utf8_lossy(&line))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(text: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        lines(text, |line| {
            all.push(line.to_owned());
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn one_line_in_is_one_line_out() {
        assert_eq!(collect(b"a\n\nb"), ["a", "", "b"]);
        assert_eq!(collect(b""), [""; 0]);
        assert_eq!(collect(b"a\r\n"), ["a\r"], "what is not part of a reference is not taken off it");
        assert_eq!(collect(&[0xff, b'\n']), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_is_whole() {
        let longest = "x".repeat(LONGEST_LINE);
        assert_eq!(collect(format!("{longest}\nb").as_bytes()), [longest.as_str(), "b"]);
        let all = collect(format!("{}\nb\n", "x".repeat(3 * LONGEST_LINE)).as_bytes());
        assert_eq!(all.iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE + 1, 1]);
    }
}
