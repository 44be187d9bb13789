//! The machine's resolver configuration, reloaded when its files change.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use super::hosts::Hosts;
use super::ignored_line;
use super::resolv_conf::ResolvConf;

/// Maximum number of bytes that are read of each file.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The resolver configuration: hosts file, name servers and options.
#[derive(Debug, Default)]
pub struct Setup {
    pub hosts: Hosts,
    pub config: ResolverConfig,
    pub options: ResolverOpts,
}

/// The configuration files and their last parsed contents.
#[derive(Debug)]
pub struct SystemFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    last: Mutex<Option<(FileStamps, Arc<Setup>)>>,
    /// The reload in progress, at most one: a hanging file system blocks one thread, not all.
    reload: tokio::sync::Mutex<Option<JoinHandle<Arc<Setup>>>>,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

/// Metadata that detects a change of a file. Container image layers give every file the same times, so another file of
/// the same length differs only in its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

/// The stamps of both files; `None` for a file that does not exist.
type FileStamps = [Option<FileStamp>; 2];

impl FileStamp {
    fn of(file: &Path) -> Option<Self> {
        let about = fs::metadata(file).ok()?;
        Some(Self {
            inode: (about.dev(), about.ino()),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
            bytes: about.len(),
        })
    }
}

impl SystemFiles {
    pub fn new(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self { hosts, resolv_conf, last: Mutex::default(), reload: tokio::sync::Mutex::default() }
    }

    /// Loads the current configuration without blocking the runtime's worker threads.
    pub async fn setup(self: &Arc<Self>) -> Result<Arc<Setup>, JoinError> {
        let mut reload = self.reload.lock().await;
        let files = self.clone();
        let running =
            reload.get_or_insert_with(|| tokio::task::spawn_blocking(move || files.reload_if_changed()));
        let setup = running.await;
        *reload = None;
        setup
    }

    /// Loads the current configuration. Problems are logged once per change, not at each call.
    fn reload_if_changed(&self) -> Arc<Setup> {
        let stamps = [&self.hosts, &self.resolv_conf].map(|file| FileStamp::of(file));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, setup)) = &*last
            && *read == stamps
        {
            return setup.clone();
        }
        let setup = Arc::new(self.read());
        *last = Some((stamps, setup.clone()));
        setup
    }

    fn read(&self) -> Setup {
        // A missing hosts file counts as empty.
        let (hosts, ignored) = Hosts::parse(&read(&self.hosts).unwrap_or_default());
        ignored_line::log(&self.hosts, &ignored);
        let text = read(&self.resolv_conf).unwrap_or_else(|error| {
            let file = self.resolv_conf.display();
            warn!(%file, %error, "cannot be read: asking a name server on this machine");
            Vec::new()
        });
        let ResolvConf { config, options, ignored } = ResolvConf::parse(&text);
        ignored_line::log(&self.resolv_conf, &ignored);
        Setup { hosts, config, options }
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(files: &SystemFiles) -> Vec<String> {
        files.reload_if_changed().config.name_servers().iter().map(|server| server.ip.to_string()).collect()
    }

    #[test]
    fn files_that_change_are_read_again_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (hosts, conf) = (directory.path().join("hosts"), directory.path().join("resolv.conf"));
        let files = SystemFiles::new(hosts.clone(), conf.clone());
        assert_eq!(servers(&files), ["127.0.0.1"], "without a file, this machine");

        fs::write(&conf, "nameserver 10.0.0.53\nsearch shop.example\noptions ndots:5 unheard-of\n").unwrap();
        assert_eq!(servers(&files), ["10.0.0.53"]);
        let setup = files.reload_if_changed();
        assert_eq!((setup.options.ndots, setup.config.search().len()), (5, 1));
        assert!(Arc::ptr_eq(&setup, &files.reload_if_changed()), "not read again");

        fs::write(&hosts, "10.0.0.1 payments\n").unwrap();
        assert!(!Arc::ptr_eq(&setup, &files.reload_if_changed()));
        let filler = "#".repeat(FILE_BYTES_MAX as usize);
        let too_long = format!("10.0.0.1 a\n{filler}\n10.0.0.2 beyond\n");
        fs::write(&hosts, too_long).unwrap();
        let hosts = &files.reload_if_changed().hosts;
        assert!(hosts.addresses("a").is_some(), "as far as it is read");
        assert!(hosts.addresses("beyond").is_none());
        fs::write(&conf, "nonsense \u{0}").unwrap();
        assert_eq!(servers(&files), ["127.0.0.1"]);
    }

    #[test]
    fn another_file_of_the_same_length_and_time_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = SystemFiles::new(path("hosts"), path("resolv.conf"));
        for last in 1..=2 {
            fs::write(path("new"), format!("nameserver 10.0.0.{last}\n")).unwrap();
            File::options()
                .write(true)
                .open(path("new"))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
            fs::rename(path("new"), path("resolv.conf")).unwrap();
            assert_eq!(servers(&files), [format!("10.0.0.{last}")]);
        }
    }

    #[tokio::test]
    async fn a_file_that_hangs_takes_one_thread_however_many_ask() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("hosts")).status().unwrap();
        assert!(made.success());
        fs::write(path("resolv.conf"), "nameserver 10.0.0.53\n").unwrap();
        let files = Arc::new(SystemFiles::new(path("hosts"), path("resolv.conf")));
        for _ in 0..5 {
            let asked = tokio::time::timeout(std::time::Duration::from_millis(20), files.setup());
            assert!(asked.await.is_err(), "nobody writes to the FIFO");
        }
        assert_eq!(Arc::strong_count(&files), 2, "one look is under way");
        fs::write(path("hosts"), "10.0.0.1 payments\n").unwrap();
        assert!(files.setup().await.unwrap().hosts.addresses("payments").is_some());
    }
}
