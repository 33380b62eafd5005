//! Child processes that cannot outlive the test process, and commands that are run to their end.
//!
//! `setpriv --pdeathsig KILL` (util-linux) makes the kernel kill a child when its parent ends, however that ends. The
//! kernel's "parent" is the *thread* that forked, and libtest ends a thread with each test: so children are forked by the
//! workers of one runtime that lives as long as the process.

use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// The runtime of everything that outlives the test which started it.
pub fn background() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("lab").enable_all().build().unwrap())
}

/// A program and what it is started with. Nothing of the test's environment reaches it but PATH and TMPDIR.
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

impl Program {
    /// `path`, called `name` in the file name of its log; it works in `directory`, which is also its HOME.
    pub fn new(name: &str, path: impl Into<PathBuf>, directory: &Path) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            arguments: Vec::new(),
            environment: vec![("HOME".into(), directory.into())],
            directory: directory.into(),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn environment(&self) -> impl Iterator<Item = (OsString, OsString)> {
        ["PATH", "TMPDIR"]
            .into_iter()
            .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
            .chain(self.environment.iter().cloned())
    }

    /// Starts it as a child that lives until it is killed, dropped, or this process ends. Its log is appended to.
    pub async fn spawn(self) -> Process {
        let log = self.directory.join(format!("{}.log", self.name));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let (started, start) = oneshot::channel();
        let (kill, killed) = oneshot::channel::<()>();
        let (exit, exited) = watch::channel(None);
        let name = self.name.clone();
        background().spawn(async move {
            let spawned = tokio::process::Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--"])
                .arg(&self.path)
                .args(&self.arguments)
                .env_clear()
                .envs(self.environment())
                .current_dir(&self.directory)
                .stdin(Stdio::null())
                .stdout(file.try_clone().unwrap())
                .stderr(file)
                .spawn();
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(child.id().unwrap_or_default()));
            let status = tokio::select! {
                status = child.wait() => status,
                _ = killed => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            };
            exit.send_replace(Some(status.unwrap()));
        });
        match start.await.unwrap() {
            Ok(pid) => Process { name, pid, log, exited, _kill: kill },
            Err(error) => panic!("cannot start {name} through setpriv (Debian's package util-linux): {error}"),
        }
    }

    /// Runs it to its end, `input` on its standard input.
    pub async fn run(self, input: &str) -> Output {
        const PATIENCE: Duration = Duration::from_secs(120);
        let mut child = tokio::process::Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment())
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.path.display()));
        let mut stdin = child.stdin.take().unwrap();
        let feed = async move {
            // A program that does not read its input may be gone already.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let arguments: Vec<_> = self.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let command = format!("{} {}", self.name, arguments.join(" "));
        let Ok(((), output)) = timeout(PATIENCE, async { tokio::join!(feed, child.wait_with_output()) }).await else {
            panic!("`{command}` did not end within {PATIENCE:?}");
        };
        let output = output.unwrap();
        Output {
            command,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Output {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The output, unless the command failed: then a panic with all it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// The output of a command that must fail.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert!(!self.status.success(), "should have failed: {self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "`{}`: {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// A running child. Dropping it kills it.
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    exited: watch::Receiver<Option<ExitStatus>>,
    _kill: oneshot::Sender<()>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exited.borrow()
    }

    /// Turns `Some(status)` when the process has ended and was reaped.
    pub fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exited.clone()
    }

    /// Waits for its end.
    pub async fn exited(&self, within: Duration) -> ExitStatus {
        let mut exit = self.exited.clone();
        let Ok(status) = timeout(within, exit.wait_for(Option::is_some)).await else {
            panic!("{} did not end within {within:?}:\n{}", self.name, self.tail(40));
        };
        status.unwrap().unwrap()
    }

    /// Sends a signal: `"TERM"`, `"KILL"`, `"STOP"`, `"CONT"`.
    pub async fn signal(&self, signal: &str) {
        assert!(self.exit_status().is_none(), "{} has ended already:\n{}", self.name, self.tail(40));
        // The shell's own `kill`: the one in /bin is a package that a small machine may lack.
        let status =
            tokio::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.pid.to_string()]).status().await.unwrap();
        assert!(status.success(), "cannot send {signal} to {}", self.name);
    }

    /// All it wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The last lines that it wrote.
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// A port of `address` that nobody listens on, below the range from which Linux takes the local ends of connections: so
/// that a server which is stopped for a while finds its port free again.
pub fn free_port(address: IpAddr) -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
    (0..COUNT)
        .map(|_| FIRST + (own + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind((address, *port)).is_ok())
        .expect("a free port")
}
