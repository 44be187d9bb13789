//! The runtimes that the programs of the suite need, installed once into the target folder from their lock files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use postern_integration::tools;

use crate::case::Place;
use crate::table::Script;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compat");

/// An installation is tried so often: registries fail now and then, and what has been downloaded is kept.
const TRIES: u32 = 4;
/// One try may take so long.
const TRY_WITHIN: &str = "900";
/// Before the next try, times the number of those that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// What the scripts of each language need.
#[derive(Debug)]
pub(crate) struct Runtimes {
    python: Runtime,
    node: Runtime,
    go: Runtime,
    java: Runtime,
}

/// Where a runtime is, or why it is not.
type Runtime = Result<PathBuf, Unavailable>;

/// Why a script cannot be run.
#[derive(Debug, Clone)]
pub(crate) enum Unavailable {
    /// This is not on the machine.
    NotInstalled(&'static str),
    /// It cannot be downloaded or built.
    NotPrepared(String),
}

impl Runtimes {
    /// Installs what these scripts need. No case runs meanwhile, so no deadline of a case includes a download.
    pub(crate) fn prepare(scripts: &[Script]) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compat");
        std::fs::create_dir_all(&root).unwrap();
        let prepared = |language: &'static str,
                        tools: &[&'static str],
                        install: fn(&Path) -> anyhow::Result<PathBuf>| {
            if !scripts.iter().any(|script| script.language() == Some(language)) {
                return Err(Unavailable::NotPrepared(format!("no script was to need {language}")));
            }
            if let Some(missing) = tools.iter().find(|tool| !tools::is_here(tool)) {
                return Err(Unavailable::NotInstalled(missing));
            }
            let begun = Instant::now();
            let installed = install(&root);
            let result = if installed.is_ok() { "ready" } else { "not ready" };
            println!("{language} is {result} after {:.0} s", begun.elapsed().as_secs_f64());
            installed.map_err(|error| Unavailable::NotPrepared(format!("{language} is not ready: {error:#}")))
        };
        Self {
            python: prepared("python", &["python3"], python),
            node: prepared("node", &["node", "npm"], node),
            go: prepared("go", &["go"], go),
            java: prepared("java", &["mvn", "javac"], java),
        }
    }

    /// The command of a script.
    pub(crate) fn command(
        &self,
        script: &Script,
        place: &Place,
    ) -> Result<tokio::process::Command, Unavailable> {
        // Whatever happens to the suite, nothing of it stays.
        let mut command = tokio::process::Command::new("setpriv");
        command.arg("--pdeathsig=KILL");
        match script {
            Script::Shell(args) => {
                command.arg("bash").arg(Path::new(SOURCES).join("servers").join(args[0])).args(&args[1..]);
            }
            Script::Python(args) => {
                let python = self.python.clone()?;
                let sources = Path::new(SOURCES).join("clients/python");
                command.arg(python).arg("-B").arg(sources.join(args[0])).args(&args[1..]);
            }
            Script::Module(args) => {
                let python = self.python.clone()?;
                command.arg(python).args(["-B", "-m"]).args(args.iter().map(|arg| place.fill(arg)));
                command.env("PYTHONPATH", Path::new(SOURCES).join("clients/python"));
            }
            Script::Node(args) => {
                command.arg("node").arg(self.node.clone()?.join(args[0])).args(&args[1..]);
            }
            Script::Go(args) => {
                command.arg(self.go.clone()?).args(*args);
            }
            Script::Java(args) => {
                let java = self.java.clone()?;
                let path = format!("{0}/classes:{0}/lib/*", java.display());
                command.args([
                    "java",
                    "-Xmx256m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    &path,
                ]);
                command.arg("Main").args(*args);
            }
            Script::Own(name) => {
                command.arg(std::env::current_exe().unwrap()).arg(name);
            }
        }
        Ok(command)
    }
}

fn python(root: &Path) -> anyhow::Result<PathBuf> {
    let (home, lock) = (root.join("python"), Path::new(SOURCES).join("clients/python/requirements.txt"));
    let python = home.join("bin/python");
    once(&home, &[&lock], || {
        done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
        let mut install = online(python.as_os_str());
        install.args([
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--retries",
            "5",
            "--timeout",
            "60",
        ]);
        with_retries(install.arg("-r").arg(&lock))
    })?;
    Ok(python)
}

fn node(root: &Path) -> anyhow::Result<PathBuf> {
    let (home, sources) = (root.join("node"), Path::new(SOURCES).join("clients/node"));
    std::fs::create_dir_all(&home)?;
    for source in std::fs::read_dir(&sources)? {
        let source = source?;
        std::fs::copy(source.path(), home.join(source.file_name()))?;
    }
    once(&home, &[&sources.join("package-lock.json")], || {
        let mut install = online("npm");
        install.args(["ci", "--no-audit", "--no-fund", "--fetch-retries=5", "--fetch-timeout=60000"]);
        with_retries(install.current_dir(&home))
    })?;
    Ok(home)
}

fn go(root: &Path) -> anyhow::Result<PathBuf> {
    let (binary, sources) = (root.join("compat-go"), Path::new(SOURCES).join("clients/go"));
    with_retries(online("go").args(["mod", "download"]).current_dir(&sources))?;
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(&binary).arg(".");
    done(build.current_dir(&sources))?;
    Ok(binary)
}

fn java(root: &Path) -> anyhow::Result<PathBuf> {
    let (home, sources) = (root.join("java"), Path::new(SOURCES).join("clients/java"));
    let pom = sources.join("pom.xml");
    once(&home, &[&pom], || {
        let mut copy = online("mvn");
        copy.args(["--batch-mode", "--quiet", "--file"]).arg(&pom);
        // By its own defaults Maven waits half an hour for a server that is silent. The first two are of the
        // transport of Maven 3.8, the last two of that of 3.9.
        copy.args(["-Dmaven.wagon.rto=60000", "-Dmaven.wagon.http.retryHandler.count=5"]);
        copy.args([
            "-Daether.connector.requestTimeout=60000",
            "-Daether.connector.http.retryHandler.count=5",
        ]);
        copy.arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies");
        with_retries(copy.arg(format!("-DoutputDirectory={}", home.join("lib").display())))
    })?;
    let files: Vec<_> = std::fs::read_dir(&sources)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let files: Vec<_> =
        files.into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "java")).collect();
    let mut compile = Command::new("javac");
    compile.args(["-nowarn", "-proc:none", "-d"]).arg(home.join("classes"));
    done(compile.arg("-cp").arg(format!("{}/lib/*", home.display())).args(files))?;
    Ok(home)
}

/// Does it unless it was done for the same lock files already.
fn once(home: &Path, locks: &[&Path], install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stamp = home.with_extension("stamp");
    let wanted = locks.iter().map(std::fs::read_to_string).collect::<Result<String, _>>()?;
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    install()?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

/// A program that downloads, and is ended when it takes too long.
fn online(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", TRY_WITHIN]).arg(program);
    command
}

/// Runs it to success, again after a pause where it fails.
fn with_retries(command: &mut Command) -> anyhow::Result<()> {
    for failed in 1..TRIES {
        let Err(error) = done(command) else { return Ok(()) };
        println!("try {failed} of {TRIES} failed: {error:#}");
        std::thread::sleep(PAUSE * failed);
    }
    done(command)
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}:\n{out}{errors}", output.status);
    Ok(())
}
