//! One real program as a child process: started, listened to, signalled, and gone when dropped.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The real `postern-ca`, freshly built.
pub fn ca_binary() -> PathBuf {
    binaries().join("postern-ca")
}

/// The real `postern-sidecar`, freshly built.
pub fn sidecar_binary() -> PathBuf {
    binaries().join("postern-sidecar")
}

/// The quickstart, freshly built.
pub fn quickstart_binary() -> PathBuf {
    binaries().join("quickstart")
}

/// Builds the programs once, in the profile of this test, and says where they are.
fn binaries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
        // What cargo tells a test about its package would make some build scripts run again.
        for (name, _) in std::env::vars() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|own| name.starts_with(own))
            {
                build.env_remove(name);
            }
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        assert!(build.status().unwrap().success(), "the programs do not build");
        let test = std::env::current_exe().unwrap();
        test.parent().and_then(Path::parent).unwrap().to_owned()
    })
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Program {
    pub fn start<S: AsRef<OsStr>>(name: &str, binary: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(binary);
        command.args(args);
        Self::start_command(name, command)
    }

    pub fn start_command(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let sender = Arc::new(sender);
        collect(child.stdout.take().unwrap(), lines.clone(), sender.clone());
        collect(child.stderr.take().unwrap(), lines.clone(), sender);
        Self { name: name.to_owned(), child, lines, count }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// Everything it has printed so far, both streams.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// How many lines contain all of `needles`.
    pub fn lines_with(&self, needles: &[&str]) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| needles.iter().all(|needle| line.contains(needle))).count()
    }

    /// Waits for a line that contains all of `needles`.
    pub async fn line_with(&self, needles: &[&str]) -> String {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                {
                    let lines = self.lines.lock().unwrap();
                    let hit = lines.iter().find(|line| needles.iter().all(|needle| line.contains(needle)));
                    if let Some(line) = hit {
                        return Some(line.clone());
                    }
                }
                if count.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Some(line)) => line,
            _ => panic!("{} never printed {needles:?}; it printed:\n{}", self.name, self.output()),
        }
    }

    pub fn signal(&self, signal: &str) {
        let status = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "cannot send {signal} to {}", self.name);
    }

    /// Waits until it has ended.
    pub async fn exit(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} does not end; it printed:\n{}", self.name, self.output()),
        }
    }

    /// With what it has ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended, however long that takes, and until all that it printed has been read.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().await.unwrap();
        let mut count = self.count.clone();
        while count.changed().await.is_ok() {}
        status
    }

    /// `kill -9`, and wait until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Resident memory now, KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn collect(
    stream: impl AsyncRead + Unpin + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
    count: Arc<watch::Sender<usize>>,
) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(stream).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            if std::env::var_os("POSTERN_TEST_OUTPUT").is_some() {
                eprintln!("{line}");
            }
            lines.lock().unwrap().push(line);
            count.send_modify(|count| *count += 1);
        }
    });
}

/// Asks again and again, for at most [`PATIENCE`], until `ask` has an answer; `what` says what never came.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
