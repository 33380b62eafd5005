//! Our reader of image names against the one that containerd runs.
//!
//! A difference between the two is a way round a quarantine: we would judge one image and the node would pull another. So they are
//! compared on as many texts as there is time for, most of them nearly right.

use std::{
    env, fmt,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use lazaretto::image::{self, Reading};
use serde::Deserialize;
use tokio::time::Instant;

use crate::support::random::{Random, search_until};

/// Enough that the pipes cost little, few enough that the deadline is kept.
const BATCH: usize = 2_000;

/// What containerd makes of a text.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
#[derive(Default)]
struct Answer {
    error: bool,
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Answer {
    fn ours(text: &str) -> Self {
        match image::read(text) {
            Ok(Reading { domain, path, tag, digest }) => {
                let [tag, digest] = [tag, digest].map(|part| part.map(str::to_owned));
                Self { error: false, domain: domain.to_owned(), path: path.into_owned(), tag, digest }
            }
            Err(_) => Self { error: true, ..Self::default() },
        }
    }
}

/// The Go library, one question a line.
struct Containerd {
    process: Child,
    questions: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Containerd {
    /// None where `LAZARETTO_SKIP_GO=1` says that it may be left out.
    fn start() -> Option<Self> {
        if env::var("LAZARETTO_SKIP_GO").is_ok_and(|value| value == "1") {
            return None;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/reference");
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("containerd-reference");
        let built = Command::new("go").arg("build").arg("-o").arg(&binary).arg(".").current_dir(&source).output();
        match built {
            Ok(output) => assert!(
                output.status.success(),
                "`go build` in e2e/reference failed: {}",
                String::from_utf8_lossy(&output.stderr).chars().take(2_000).collect::<String>()
            ),
            Err(error) => panic!(
                "`go` cannot be run ({error}): this test compares the reader of image names with containerd's. \
                 Install Go 1.24 or newer, or set LAZARETTO_SKIP_GO=1 to go without"
            ),
        }
        let mut process = Command::new(&binary).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary just built runs");
        let questions = BufWriter::new(process.stdin.take().expect("piped"));
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Some(Self { process, questions, answers })
    }

    fn ask(&mut self, texts: &[String]) -> Vec<Answer> {
        let Self { questions, answers, .. } = self;
        // The two directions at once: else both sides wait as soon as the pipes are full.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for text in texts {
                    serde_json::to_writer(&mut *questions, text).expect("the process reads");
                    questions.write_all(b"\n").expect("the process reads");
                }
                questions.flush().expect("the process reads");
            });
            let answer = |_| {
                let mut line = String::new();
                answers.read_line(&mut line).expect("the process answers");
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("no answer: {line:?}: {error}"))
            };
            texts.iter().map(answer).collect()
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was compared.
#[derive(Default)]
struct Count {
    accepted: usize,
    refused: usize,
    hosts: usize,
    pinned: usize,
}

impl Count {
    fn add(&mut self, answer: &Answer) {
        self.accepted += usize::from(!answer.error);
        self.refused += usize::from(answer.error);
        self.hosts += usize::from(!answer.error && answer.domain != "docker.io");
        self.pinned += usize::from(answer.digest.is_some());
    }

    fn total(&self) -> usize {
        self.accepted + self.refused
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, refused, hosts, pinned } = self;
        write!(formatter, "{accepted} accepted ({hosts} with a host, {pinned} with a digest), {refused} refused")
    }
}

fn compare(containerd: &mut Containerd, texts: &[String], count: &mut Count) {
    for (text, theirs) in texts.iter().zip(containerd.ask(texts)) {
        assert_eq!(Answer::ours(text), theirs, "ours, then containerd's, for {text:?}");
        count.add(&theirs);
    }
}

// === inputs ===

const ALPHANUMERIC: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
const WORD: &str = "aZ09_";
const HEX: &str = "0123456789abcdef";

/// What mutations put in: what the grammar treats apart, and what looks like it.
const PIECES: [&str; 64] = [
    "/",
    "//",
    ":",
    "@",
    ".",
    "..",
    "-",
    "--",
    "_",
    "__",
    "___",
    "._",
    "[",
    "]",
    "+",
    "%",
    " ",
    "\n",
    "\r",
    "\t",
    "\0",
    "\\",
    "?",
    "#",
    "~",
    "*",
    "A",
    "Z",
    "a",
    "z",
    "0",
    "9",
    "f",
    "F",
    "G",
    "é",
    "É",
    "ß",
    "İ",
    "K",
    "ſ",
    "\u{ff0e}",
    "\u{2024}",
    "\u{ff0f}",
    "\u{200b}",
    "\u{feff}",
    "\u{1f40b}",
    "localhost",
    "LOCALHOST",
    "docker.io",
    "index.docker.io",
    "library/",
    "latest",
    ":443",
    ":0",
    ":65536",
    "sha256:",
    "sha384:",
    "sha512:",
    "sha256+b64:",
    "@sha256:",
    "md5:",
    "://",
    "[::1]",
];

const EDGES: [&str; 60] = [
    "",
    "/",
    "//",
    ":",
    "@",
    ".",
    "a",
    "A",
    "a/",
    "/a",
    "a:",
    "a@",
    "a:b:c",
    "a@b@c",
    "localhost",
    "localhost/",
    "localhost/a",
    "LOCALHOST/a",
    "localhost:5000",
    "localhost:5000/a",
    "docker.io",
    "docker.io/",
    "docker.io/a",
    "docker.io/a/b",
    "docker.io/a:b/c",
    "docker.io/a@b/c",
    "index.docker.io",
    "index.docker.io/a",
    "index.docker.io/a/b",
    "index.docker.io//a",
    "INDEX.docker.io/a",
    "DOCKER.IO/a",
    "docker.io:443/a",
    "library/a",
    "docker.io/library/a",
    "LAZ/gate",
    "a_b.c/d",
    "a__b.c/d",
    "a_b/c",
    "a_b.c:1/d",
    "a_b.c/d:1",
    "a_B.c/d",
    "a.b./c",
    ".a/b",
    "a..b/c",
    "a-.b/c",
    "-a.b/c",
    "a.b:/c",
    "a.b:x/c",
    "a.b:00/c",
    "a.b:99999999/c",
    "[::1]/a",
    "[::1]:1/a",
    "[]/a",
    "[:]/a",
    "[A]/a",
    "[a]/a",
    "[::g]/a",
    "[::1]a/b",
    "a[::1]/b",
];

fn component(random: &mut Random) -> String {
    let mut text = random.text(ALPHANUMERIC, 1, 5);
    while random.one_in(3) {
        text += random.pick(&[".", "_", "__", "-", "---"]);
        text += &random.text(ALPHANUMERIC, 1, 3);
    }
    text
}

fn host(random: &mut Random) -> String {
    let mut host = match random.below(8) {
        0 => random.pick(&["localhost", "docker.io", "index.docker.io", "registry-1.docker.io"]).to_owned(),
        1 => format!("[{}]", random.text("0123456789abcdefABCDEF::::", 0, 12)),
        2 => format!("{}.{}.{}.{}", random.below(300), random.below(300), random.below(300), random.below(300)),
        3 => random.text("abcXYZ019", 1, 6),
        4 => component(random),
        _ => {
            let mut name = random.text("abcXYZ019", 1, 4);
            for _ in 0..=random.below(3) {
                name += random.pick(&[".", ".", ".", "-", "--", "_"]);
                name += &random.text("abcABC019", 1, 4);
            }
            name
        }
    };
    if random.one_in(3) {
        host += ":";
        host += &random.text("0123456789", 0, 6);
    }
    host
}

fn digest(random: &mut Random) -> String {
    let (algorithm, digits) =
        [("sha256", 64), ("sha256", 64), ("sha384", 96), ("sha512", 128), ("md5", 32), ("sha256+b64", 64)][random.below(6)];
    let digits = if random.one_in(6) { digits + random.below(3) - 1 } else { digits };
    let alphabet = if random.one_in(8) { "0123456789abcdefF" } else { HEX };
    format!("@{algorithm}:{}", random.text(alphabet, digits, digits))
}

/// A name by the grammar, or nearly so.
fn name(random: &mut Random) -> String {
    let mut text = String::new();
    if random.one_in(60) {
        text = random.text(HEX, 63, 65);
    }
    if random.below(3) > 0 {
        text += &host(random);
        text += "/";
    }
    for _ in 0..random.below(3) {
        text += &component(random);
        text += "/";
    }
    text += &component(random);
    if random.one_in(40) {
        // Around the longest path.
        text += "/";
        text += &random.text(ALPHANUMERIC, 225, 256);
    }
    if random.one_in(3) {
        text += ":";
        text += &if random.one_in(20) { random.text(WORD, 126, 130) } else { random.text("aZ09_.-", 0, 8) };
    }
    if random.one_in(3) {
        text += &digest(random);
    }
    text
}

fn input(random: &mut Random, earlier: &[String]) -> String {
    let mut bytes = match random.below(10) {
        0 => random.pick(&EDGES).as_bytes().to_vec(),
        // Two names grown together.
        1 if !earlier.is_empty() => {
            let (head, tail) = (&earlier[random.below(earlier.len())], &earlier[random.below(earlier.len())]);
            let (cut, join) = (random.below(head.len() + 1), random.below(tail.len() + 1));
            [&head.as_bytes()[..cut], &tail.as_bytes()[join..]].concat()
        }
        2 => (0..random.below(12)).map(|_| random.pick(&PIECES)).collect::<String>().into_bytes(),
        _ => name(random).into_bytes(),
    };
    if random.one_in(2) {
        for _ in 0..=random.below(3) {
            random.mutate(&mut bytes, &PIECES);
        }
    }
    // Names come to us out of JSON, so they are UTF-8.
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[test]
fn we_read_image_names_as_containerd_does() {
    let Some(mut containerd) = Containerd::start() else { return };
    let mut random = Random::seeded("reference");
    let until = search_until(Duration::from_secs(5));

    // First what is known to be odd: every pair of pieces as host and path, every piece behind every edge.
    let mut known: Vec<String> = EDGES.iter().map(|edge| (*edge).to_owned()).collect();
    known.extend(PIECES.iter().flat_map(|one| PIECES.iter().map(move |two| format!("{one}/{two}"))));
    known.extend(EDGES.iter().flat_map(|edge| PIECES.iter().flat_map(move |piece| [format!("{edge}{piece}"), format!("{piece}{edge}")])));
    let mut count = Count::default();
    for batch in known.chunks(BATCH) {
        compare(&mut containerd, batch, &mut count);
    }

    let mut count = Count::default();
    let mut earlier = Vec::new();
    loop {
        let texts: Vec<String> = (0..BATCH).map(|_| input(&mut random, &earlier)).collect();
        compare(&mut containerd, &texts, &mut count);
        earlier = texts;
        if Instant::now() >= until {
            break;
        }
    }
    println!("{} texts read alike: {count}", count.total());
    let share = |part: usize| part * 100 / count.total();
    assert!(share(count.accepted) >= 20 && share(count.refused) >= 20, "the search leans to one side: {count}");
    assert!(share(count.hosts) >= 10 && share(count.pinned) >= 3, "too little is searched: {count}");
}
