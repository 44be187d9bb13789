//! The runtimes that the programs of the suite need, installed once into the target folder from their lock files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use postern_integration::tools;

use crate::case::{Case, Place};
use crate::table::Script;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compat");

/// Where each runtime is; `None` on a machine without it.
#[derive(Debug)]
pub(crate) struct Runtimes {
    python: Option<PathBuf>,
    node: Option<PathBuf>,
    go: Option<PathBuf>,
    java: Option<PathBuf>,
}

impl Runtimes {
    /// Installs what these cases need.
    pub(crate) fn prepare(cases: Vec<Case>) -> anyhow::Result<(Self, Vec<Case>)> {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compat");
        std::fs::create_dir_all(&root)?;
        let needed = |of: fn(&Script) -> bool| cases.iter().flat_map(Case::scripts).any(|script| of(&script));
        let runtimes = Self {
            python: python(&root, needed(|script| matches!(script, Script::Python(_) | Script::Module(_))))?,
            node: node(&root, needed(|script| matches!(script, Script::Node(_))))?,
            go: go(&root, needed(|script| matches!(script, Script::Go(_))))?,
            java: java(&root, needed(|script| matches!(script, Script::Java(_))))?,
        };
        Ok((runtimes, cases))
    }

    /// The command of a script, or the name of what is missing on this machine.
    pub(crate) fn command(
        &self,
        script: &Script,
        place: &Place,
    ) -> Result<tokio::process::Command, &'static str> {
        // Whatever happens to the suite, nothing of it stays.
        let mut command = tokio::process::Command::new("setpriv");
        command.arg("--pdeathsig=KILL");
        match script {
            Script::Shell(args) => {
                command.arg("bash").arg(Path::new(SOURCES).join("servers").join(args[0])).args(&args[1..]);
            }
            Script::Python(args) => {
                let python = self.python.as_ref().ok_or("python3")?;
                let sources = Path::new(SOURCES).join("clients/python");
                command.arg(python).arg("-B").arg(sources.join(args[0])).args(&args[1..]);
            }
            Script::Module(args) => {
                let python = self.python.as_ref().ok_or("python3")?;
                command.arg(python).args(["-B", "-m"]).args(args.iter().map(|arg| place.fill(arg)));
                command.env("PYTHONPATH", Path::new(SOURCES).join("clients/python"));
            }
            Script::Node(args) => {
                command.arg("node").arg(self.node.as_ref().ok_or("node")?.join(args[0])).args(&args[1..]);
            }
            Script::Go(args) => {
                command.arg(self.go.as_ref().ok_or("go")?).args(*args);
            }
            Script::Java(args) => {
                let java = self.java.as_ref().ok_or("java and mvn")?;
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

fn python(root: &Path, needed: bool) -> anyhow::Result<Option<PathBuf>> {
    if !needed || !tools::has("python3") {
        return Ok(None);
    }
    let (home, lock) = (root.join("python"), Path::new(SOURCES).join("clients/python/requirements.txt"));
    let python = home.join("bin/python");
    once(&home, &[&lock], || {
        done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
        done(
            Command::new(&python)
                .args(["-m", "pip", "install", "--disable-pip-version-check", "-r"])
                .arg(&lock),
        )
    })?;
    Ok(Some(python))
}

fn node(root: &Path, needed: bool) -> anyhow::Result<Option<PathBuf>> {
    if !needed || !tools::has("node") || !tools::has("npm") {
        return Ok(None);
    }
    let (home, sources) = (root.join("node"), Path::new(SOURCES).join("clients/node"));
    std::fs::create_dir_all(&home)?;
    for source in std::fs::read_dir(&sources)? {
        let source = source?;
        std::fs::copy(source.path(), home.join(source.file_name()))?;
    }
    once(&home, &[&sources.join("package-lock.json")], || {
        done(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&home))
    })?;
    Ok(Some(home))
}

fn go(root: &Path, needed: bool) -> anyhow::Result<Option<PathBuf>> {
    if !needed || !tools::has("go") {
        return Ok(None);
    }
    let binary = root.join("compat-go");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(".");
    done(build.current_dir(Path::new(SOURCES).join("clients/go")))?;
    Ok(Some(binary))
}

fn java(root: &Path, needed: bool) -> anyhow::Result<Option<PathBuf>> {
    if !needed || !tools::has("mvn") || !tools::has("javac") {
        return Ok(None);
    }
    let (home, sources) = (root.join("java"), Path::new(SOURCES).join("clients/java"));
    let pom = sources.join("pom.xml");
    once(&home, &[&pom], || {
        let mut copy = Command::new("mvn");
        copy.args(["--batch-mode", "--quiet", "--file"]).arg(&pom);
        copy.arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies");
        done(copy.arg(format!("-DoutputDirectory={}", home.join("lib").display())))
    })?;
    let files: Vec<_> = std::fs::read_dir(&sources)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let files: Vec<_> =
        files.into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "java")).collect();
    let mut compile = Command::new("javac");
    compile.args(["-nowarn", "-proc:none", "-d"]).arg(home.join("classes"));
    done(compile.arg("-cp").arg(format!("{}/lib/*", home.display())).args(files))?;
    Ok(Some(home))
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

fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}:\n{out}{errors}");
    Ok(())
}
