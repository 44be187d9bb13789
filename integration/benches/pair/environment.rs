//! What a reader must know of the machine to believe the figures.

use postern_integration::bench::options::Options;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) fn of_machine(options: &Options) -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    vec![
        ("date", OffsetDateTime::now_utc().format(&Rfc3339).unwrap()),
        ("machine", format!("{cores} cores, {}", model.map_or("", |(_, model)| model))),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("load before", read("/proc/loadavg")),
        // Where it is 0, the ports of closed connections run out in the connect measures.
        ("tcp_tw_reuse", read("/proc/sys/net/ipv4/tcp_tw_reuse")),
        ("rounds", format!("{}, of {:?} each where time decides", options.rounds, options.duration)),
    ]
}
