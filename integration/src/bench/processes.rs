//! What processes and their children have used, as `/proc` tells it.

use std::collections::HashMap;

/// Kernel clock ticks a second in `/proc/PID/stat` (`getconf CLK_TCK`, the same on every Linux in use).
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory; what several processes share counts once in each `rss`, and in equal parts in `pss`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub rss_kib: f64,
    pub pss_kib: f64,
}

/// Processor time of `pid`, its threads, and its living descendants.
pub fn cpu_seconds(pid: u32) -> std::io::Result<f64> {
    let ticks = tree(pid)?.iter().map(|(_, stat)| stat.ticks).sum::<u64>();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Memory of `pid` and its living descendants.
pub fn memory(pid: u32) -> std::io::Result<Memory> {
    let mut sum = Memory::default();
    for (pid, _) in tree(pid)? {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |field| rollup_kib(&rollup, field).ok_or_else(|| unreadable(pid, "smaps_rollup"));
        sum.rss_kib += kib("Rss:")?;
        sum.pss_kib += kib("Pss:")?;
    }
    Ok(sum)
}

/// `pid` and its descendants, as nginx has its workers.
fn tree(pid: u32) -> std::io::Result<Vec<(u32, Stat)>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Others may end between the listing and the reading.
        if let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            all.insert(pid, Stat::parse(&text).ok_or_else(|| unreadable(pid, "stat"))?);
        }
    }
    let root = *all.get(&pid).ok_or_else(|| std::io::Error::other(format!("process {pid} has ended")))?;
    Ok(descendants(pid, root, &all))
}

fn descendants(root: u32, stat: Stat, all: &HashMap<u32, Stat>) -> Vec<(u32, Stat)> {
    let mut found = vec![(root, stat)];
    let mut next = 0;
    while let Some((parent, _)) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, stat)| (*pid, *stat)));
        next += 1;
    }
    found
}

fn unreadable(pid: u32, file: &str) -> std::io::Error {
    std::io::Error::other(format!("/proc/{pid}/{file} is not as proc(5) has it"))
}

/// What we need of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time of all its threads, also those that have ended.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name is in brackets, and may hold spaces and brackets of its own.
        let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace();
        // Field 4 is the parent, 14 and 15 are utime and stime (proc_pid_stat(5)); the first here is field 3.
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(9)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Self { parent, ticks: user + system })
    }
}

fn rollup_kib(rollup: &str, field: &str) -> Option<f64> {
    let line = rollup.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_programs_name() {
        let rest = "S 41 42 42 0 -1 4194304 1000 11 22 33 250 150 7 8 20 0 4 0 100 200 300";
        for name in ["nginx", "a b", "a) R 1 (b", ") "] {
            let stat = Stat::parse(&format!("42 ({name}) {rest}\n"));
            assert_eq!(stat, Some(Stat { parent: 41, ticks: 400 }), "{name}");
        }
        assert_eq!(Stat::parse("42 (nginx) S 41 42"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn memory_is_the_field_asked_for() {
        let rollup =
            "5580-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    2048 kB\nPss:   1024 kB\nPss_Dirty: 5 kB\n";
        assert_eq!(rollup_kib(rollup, "Rss:"), Some(2048.0));
        assert_eq!(rollup_kib(rollup, "Pss:"), Some(1024.0));
        assert_eq!(rollup_kib(rollup, "Swap:"), None);
    }

    #[test]
    fn children_and_grandchildren_count_and_strangers_do_not() {
        let of = |parent| Stat { parent, ticks: 1 };
        let all = HashMap::from([(1, of(0)), (5, of(1)), (6, of(5)), (7, of(6)), (8, of(1))]);
        let mut found: Vec<u32> = descendants(5, all[&5], &all).iter().map(|(pid, _)| *pid).collect();
        found.sort_unstable();
        assert_eq!(found, [5, 6, 7]);
    }

    #[test]
    fn this_process_has_memory_and_no_process_has_none() {
        let own = memory(std::process::id()).unwrap();
        assert!(own.rss_kib >= own.pss_kib && own.pss_kib > 0.0, "{own:?}");
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
        // Linux' pids end at 2^22.
        memory(1 << 23).unwrap_err();
        cpu_seconds(1 << 23).unwrap_err();
    }
}
