//! How this machine resolves names, by its own files, read again when they have changed.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hickory_resolver::Hosts;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::system_conf::parse_resolv_conf;
use tracing::warn;

use crate::holder::in_one_line;

/// So much of either file is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where and how to ask.
#[derive(Debug, Default)]
pub struct Setup {
    pub hosts: Hosts,
    pub config: ResolverConfig,
    pub options: ResolverOpts,
}

/// The files that say it, and what they said last.
#[derive(Debug)]
pub struct SystemFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    last: Mutex<Option<(Stamps, Arc<Setup>)>>,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

/// Of either file: when it was changed last, and its length.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl SystemFiles {
    pub fn new(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self { hosts, resolv_conf, last: Mutex::default() }
    }

    /// What the files say now. What is wrong with them is told once, not at each look.
    pub fn setup(&self) -> Arc<Setup> {
        let stamps = [&self.hosts, &self.resolv_conf].map(|file| {
            let about = fs::metadata(file).ok()?;
            Some((about.modified().ok()?, about.len()))
        });
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
        let mut hosts = Hosts::default();
        // Without a hosts file there are no names in it.
        if let Ok(file) = File::open(&self.hosts)
            && let Err(error) = hosts.read_hosts_conf(file.take(FILE_BYTES_MAX))
        {
            warn!(file = %self.hosts.display(), %error, "the hosts file cannot be read to its end");
        }
        let mut text = Vec::new();
        let read =
            File::open(&self.resolv_conf).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
        if let Err(error) = read {
            warn!(file = %self.resolv_conf.display(), %error, "cannot be read");
        }
        let (config, options) = parse_resolv_conf(text).unwrap_or_else(|error| {
            let file = self.resolv_conf.display();
            warn!(%file, error = in_one_line(&error), "asking a name server on this machine");
            (this_machine(), ResolverOpts::default())
        });
        Setup { hosts, config, options }
    }
}

/// resolv.conf(5): without a `nameserver` line it is the one on this machine.
fn this_machine() -> ResolverConfig {
    let server = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::{Name, RecordType};

    use super::*;

    fn servers(files: &SystemFiles) -> Vec<String> {
        files.setup().config.name_servers().iter().map(|server| server.ip.to_string()).collect()
    }

    #[test]
    fn files_that_change_are_read_again_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (hosts, conf) = (directory.path().join("hosts"), directory.path().join("resolv.conf"));
        let files = SystemFiles::new(hosts.clone(), conf.clone());
        assert_eq!(servers(&files), ["127.0.0.1"], "without a file, this machine");

        fs::write(&conf, "nameserver 10.0.0.53\nsearch shop.example\noptions ndots:5 unheard-of\n").unwrap();
        assert_eq!(servers(&files), ["10.0.0.53"]);
        let setup = files.setup();
        assert_eq!((setup.options.ndots, setup.config.search().len()), (5, 1));
        assert!(Arc::ptr_eq(&setup, &files.setup()), "not read again");

        fs::write(&hosts, "10.0.0.1 payments\n").unwrap();
        assert!(!Arc::ptr_eq(&setup, &files.setup()));
        let filler = "#".repeat(FILE_BYTES_MAX as usize);
        let too_long = format!("10.0.0.1 a\n{filler}\n10.0.0.2 beyond\n");
        fs::write(&hosts, too_long).unwrap();
        let query = |name: &str| Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        let hosts = &files.setup().hosts;
        assert!(hosts.lookup_static_host(&query("a")).is_some(), "as far as it is read");
        assert!(hosts.lookup_static_host(&query("beyond")).is_none());
        fs::write(&conf, "nonsense \u{0}").unwrap();
        assert_eq!(servers(&files), ["127.0.0.1"]);
    }
}
