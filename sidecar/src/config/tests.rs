//! Tests of valid and invalid configuration files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use postern_proto::policy::Protocol;

use super::*;

const EXAMPLE: &str = include_str!("../../sidecar.example.toml");

const GOOD: &str = r#"
[identity]
ca = "https://ca.internal:7443"
join_token_file = "token"

[[inbound]]
name = "api"
listen = "0.0.0.0:8443"
app = "127.0.0.1:8080"
protocol = "http"

[[outbound]]
listen = "127.0.0.1:9001"
service = "payments"
to = ["payments.internal:8443", "[::1]:8443"]
protocol = "tcp"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/postern/sidecar.toml"), text)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The error for the valid file with one line replaced.
fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    refusal(&GOOD.replacen(line, replacement, 1))
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_good_file_becomes_a_typed_configuration() {
    let config = parse(GOOD).unwrap();
    let IdentitySource::Ca { ca, join_token: Some(JoinTokenSource::File(token)), state_dir: None } =
        config.identity
    else {
        panic!("{:?}", config.identity);
    };
    assert_eq!(ca.to_string(), "ca.internal:7443");
    assert_eq!(token, Path::new("/etc/postern/token"));
    assert_eq!(config.inbounds[0].protocol, Protocol::Http);
    assert_eq!(config.outbounds[0].target, Target::Service("payments".into()));
    assert_eq!(config.outbounds[0].to[1].to_string(), "[::1]:8443");
    assert_eq!(config.admin, ADMIN_DEFAULT);
    assert_eq!(config.limits.handshake_timeout, HANDSHAKE_TIMEOUT_DEFAULT);
}

#[test]
fn an_identity_may_come_from_three_files() {
    let config = parse("[identity]\nsvid_file = \"/a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n").unwrap();
    let IdentitySource::Files { svid, key, .. } = config.identity else { panic!("{:?}", config.identity) };
    assert_eq!((svid.as_path(), key.as_path()), (Path::new("/a"), Path::new("/etc/postern/b")));
}

#[test]
fn the_example_parses_and_its_values_are_the_defaults() {
    let config = parse(EXAMPLE).unwrap();
    let (limits, shutdown) = (Limits::default(), Shutdown::default());
    assert_eq!(config.admin, ADMIN_DEFAULT);
    assert_eq!(config.limits.handshakes_pending_max, limits.handshakes_pending_max);
    assert_eq!(config.limits.connections_max, limits.connections_max);
    assert_eq!(config.limits.connections_per_peer_max, limits.connections_per_peer_max);
    assert_eq!(config.limits.handshake_timeout, limits.handshake_timeout);
    assert_eq!(config.limits.idle_timeout, limits.idle_timeout);
    assert_eq!(config.limits.half_closed_timeout, limits.half_closed_timeout);
    assert_eq!(config.limits.max_connection_age, limits.max_connection_age);
    assert_eq!(config.limits.connect_timeout, limits.connect_timeout);
    assert_eq!(config.http.expanded_bytes_per_peer_max, Http::default().expanded_bytes_per_peer_max);
    assert_eq!(config.shutdown.drain_delay, shutdown.drain_delay);
    assert_eq!(config.shutdown.drain_deadline, shutdown.drain_deadline);
    assert_eq!(config.log, Log::default());
}

/// The known keys come from the deserializer itself, so that no separate list can become outdated.
#[test]
fn every_known_key_is_in_the_example() {
    let keys_of = |section: &str| -> BTreeSet<String> {
        let error = toml::from_str::<raw::Raw>(&format!("{section}\nno-such-key = 1\n")).err().unwrap();
        error.message().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
    };
    let sections = keys_of("");
    assert!(sections.len() >= 8, "{sections:?}");
    for section in sections {
        let header = match section.as_str() {
            "inbound" | "outbound" => format!("[[{section}]]"),
            _ => format!("[{section}]"),
        };
        let (_, after) = EXAMPLE.split_once(&format!("\n{header}\n")).expect(&header);
        let body = after.split("\n[").next().unwrap();
        let keys = keys_of(&header);
        assert!(!keys.is_empty(), "{header}");
        for key in keys {
            let told = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(body.lines().any(told), "{header} {key}");
        }
    }
}

#[test]
fn every_refusal_names_file_line_key_value_and_rule() {
    let message = with(r#"listen = "0.0.0.0:8443""#, r#"listen = "localhost:8443""#);
    assert_says(
        &message,
        &["/etc/postern/sidecar.toml:8:", "inbound.listen", "\"localhost:8443\"", "must be ADDRESS:PORT"],
    );
}

#[test]
fn all_broken_values_are_told_at_once_in_the_order_of_lines() {
    let text = GOOD.replace("0.0.0.0:8443", "x").replace("\"tcp\"", "\"udp\"").replace("https", "http");
    let message = refusal(&text);
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(lines.len(), 3, "{message}");
    assert!(lines[0].contains(":3: identity.ca") && lines[1].contains(":8: inbound.listen"), "{message}");
    assert!(lines[2].contains(":16: outbound.protocol") && lines[2].contains("tcp, http"), "{message}");
}

#[test]
fn an_unknown_key_is_refused_with_the_near_one_and_without_its_value() {
    let message = with("join_token_file = \"token\"", "join_token = \"postern-join-1:secret\"");
    assert_says(&message, &[":4: identity.join_token", "unknown key", "did you mean \"join_token_"]);
    assert!(!message.contains("secret"), "{message}");
    assert_says(&refusal("[inbuond]\n"), &[":1: inbuond", "did you mean \"inbound\""]);
    assert_says(
        &with("name = \"api\"", "name = \"api\"\nzzzz = 1"),
        &["inbound.zzzz", "known are name, listen"],
    );
}

#[test]
fn a_value_of_another_kind_is_refused() {
    assert_says(&with("name = \"api\"", "name = 5"), &[":7: inbound.name", "= 5", "expected a string"]);
    assert_says(&with("[identity]", "identity = 3"), &["identity", "3"]);
    assert_says(
        &refusal(&format!("{GOOD}\n[limits]\nconnections_max = \"many\"\n")),
        &["limits.connections_max"],
    );
}

#[test]
fn one_pair_of_brackets_for_two_and_two_for_one_are_told_apart() {
    assert_says(&refusal("[inbound]\nname = \"a\"\n"), &[":1: inbound", "write [[inbound]]"]);
    assert_says(&refusal("[[identity]]\nca = \"a\"\n"), &[":1: identity", "write [identity]"]);
    let to = with(r#"to = ["payments.internal:8443", "[::1]:8443"]"#, r#"to = "payments.internal:8443""#);
    assert_says(&to, &["outbound.to = \"payments.internal:8443\":", "expected a list"]);
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    assert_says(&with("name = \"api\"", "name = api"), &["sidecar.toml:7: inbound.name"]);
    assert_says(
        &with("name = \"api\"", "name = \"api\"\nname = \"b\""),
        &[":8: inbound.name", "duplicate key"],
    );
}

#[test]
fn missing_keys_are_named_at_their_section() {
    assert_says(&refusal(""), &["identity", "missing"]);
    assert_says(&with("name = \"api\"\n", ""), &[":6: inbound.name", "missing"]);
    for line in ["listen = \"0.0.0.0:8443\"\n", "app = \"127.0.0.1:8080\"\n", "protocol = \"http\"\n"] {
        assert_says(&with(line, ""), &["inbound.", "missing"]);
    }
    assert_says(&with("service = \"payments\"\n", ""), &["outbound.service", "missing"]);
    assert_says(&with("join_token_file = \"token\"\n", ""), &["join_token_file", "never enrol"]);
}

#[test]
fn an_identity_comes_from_one_place_only() {
    let both =
        with("join_token_file = \"token\"", "svid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"");
    assert_says(&both, &["identity.ca", "does not go together with svid_file"]);
    assert_says(&refusal("[identity]\nsvid_file = \"a\"\n"), &["identity.key_file", "identity.bundle_file"]);
    let two = with("join_token_file = \"token\"", "join_token_file = \"token\"\njoin_token_env = \"T\"");
    assert_says(&two, &["identity.join_token_env", "join_token_file"]);
    assert_says(&with("join_token_file = \"token\"", "join_token_env = \"A=B\""), &["environment variable"]);
}

#[test]
fn a_target_is_a_service_or_an_exact_id() {
    let id = |id: &str| with("service = \"payments\"", &format!("id = {id:?}"));
    assert_says(&id("spiffe://Shop.example/a"), &["outbound.id", "not canonical"]);
    assert_says(&id("spiffe://shop.example"), &["outbound.id", "must have a path"]);
    assert_says(&with("service = \"payments\"", "service = \"Pay\""), &["outbound.service", "a-z 0-9 -"]);
    let both = with("service = \"payments\"", "service = \"payments\"\nid = \"spiffe://a/b\"");
    assert_says(&both, &["outbound.id", "one of them"]);
}

#[test]
fn an_app_of_tcp_alone_may_be_told_of_its_callers_by_the_proxy_protocol() {
    let inbound = |protocol: &str, version: &str| {
        let lines = format!("protocol = \"{protocol}\"\nproxy_protocol = \"{version}\"");
        GOOD.replacen("protocol = \"http\"", &lines, 1)
    };
    assert_eq!(parse(&inbound("tcp", "v2")).unwrap().inbounds[0].proxy_protocol, Some(ProxyProtocol::V2));
    assert_eq!(parse(GOOD).unwrap().inbounds[0].proxy_protocol, None);
    assert_says(&refusal(&inbound("tcp", "v1")), &["inbound.proxy_protocol", "\"v1\"", "one of v2"]);
    let rule = ["inbound.proxy_protocol", "protocol = \"tcp\"", "x-forwarded-client-cert"];
    assert_says(&refusal(&inbound("http", "v2")), &rule);
}

#[test]
fn listeners_and_names_are_unique() {
    assert_says(
        &with("127.0.0.1:9001", "127.0.0.1:8443"),
        &["outbound.listen", "taken already by inbound.listen"],
    );
    assert_says(&with("127.0.0.1:9001", "127.0.0.1:15000"), &["outbound.listen", "admin.listen"]);
    let again = "[[inbound]]\nname = \"api\"\nlisten = \"0.0.0.0:1\"\napp = \"a:1\"\nprotocol = \"tcp\"\n";
    assert_says(&refusal(&format!("{GOOD}{again}")), &["inbound.name", "\"api\"", "another inbound"]);
}

#[test]
fn outbound_and_admin_leave_loopback_only_when_told_to() {
    assert_says(
        &with("127.0.0.1:9001", "0.0.0.0:9001"),
        &["outbound.listen", "loopback", "allow_non_loopback"],
    );
    parse(
        &GOOD.replace("listen = \"127.0.0.1:9001\"", "listen = \"0.0.0.0:9001\"\nallow_non_loopback = true"),
    )
    .unwrap();
    let admin = format!("{GOOD}[admin]\nlisten = \"[::]:15000\"\n");
    assert_says(&refusal(&admin), &["admin.listen", "allow_non_loopback"]);
    parse(&format!("{admin}allow_non_loopback = true\n")).unwrap();
}

#[test]
fn every_bound_is_kept() {
    let limits = |line: &str| refusal(&format!("{GOOD}[limits]\n{line}\n"));
    assert_says(&limits("handshakes_pending_max = 0"), &["from 1 to 65536"]);
    assert_says(&limits("handshakes_pending_max = 65537"), &["from 1 to 65536"]);
    assert_says(&limits("connections_max = -1"), &["from 1 to 1000000"]);
    assert_says(&limits("connections_per_peer_max = 0"), &["from 1 to 10000"]);
    assert_says(&limits("connections_max = 5\nconnections_per_peer_max = 6"), &["from 1 to 5"]);
    for key in ["idle_timeout", "half_closed_timeout", "max_connection_age"] {
        assert_says(&limits(&format!("{key} = \"999ms\"")), &[key, "from 1s to 720h"]);
        assert_says(&limits(&format!("{key} = \"721h\"")), &[key, "from 1s to 720h"]);
    }
    assert_says(&limits("max_connection_age = \"never\""), &["must be \"off\", \"svid\" or from 1s to 720h"]);
    assert_says(&limits("handshake_timeout = \"9ms\""), &["from 10ms to 5m"]);
    assert_says(&limits("connect_timeout = \"301s\""), &["from 10ms to 5m"]);
    let shutdown = |line: &str| refusal(&format!("{GOOD}[shutdown]\n{line}\n"));
    assert_says(&shutdown("drain_delay = \"11m\""), &["from 0s to 10m"]);
    assert_says(&shutdown("drain_deadline = \"2h\""), &["from 0s to 1h"]);
    assert_says(&with(r#"["payments.internal:8443", "[::1]:8443"]"#, "[]"), &["outbound.to", "from 1 to 64"]);
    let many = "[[inbound]]\nname = \"x\"\n".repeat(LISTENERS_MAX + 1);
    assert_says(&refusal(&many), &["at most 256"]);
    let huge = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(huge.path(), "#".repeat(postern_server::config::CONFIG_BYTES_MAX + 1)).unwrap();
    assert_says(&Config::load(huge.path()).unwrap_err().to_string(), &["1048576"]);
}

#[test]
fn durations_and_words_are_read() {
    let text = format!(
        "{GOOD}[shutdown]\ndrain_delay = \"0s\"\ndrain_deadline = \"5m\"\n[log]\nformat = \"json\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.shutdown.drain_delay, Duration::ZERO);
    assert_eq!(config.shutdown.drain_deadline, Duration::from_secs(300));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_says(
        &refusal(&format!("{GOOD}[log]\nlevel = \"inf\"\n")),
        &["log.level", "did you mean \"info\""],
    );
}

#[test]
fn an_absent_file_and_a_file_that_is_no_text_are_named() {
    assert_says(&Config::load(Path::new("/no/such.toml")).unwrap_err().to_string(), &["/no/such.toml"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert_says(&Config::load(file.path()).unwrap_err().to_string(), &["not UTF-8"]);
}

#[test]
fn control_characters_of_the_file_are_escaped_in_messages() {
    let message = with("name = \"api\"", "name = \"a\u{7f}b\"");
    assert!(!message.contains('\u{7f}'), "{message:?}");
}

#[test]
fn one_identity_may_have_half_of_the_connections_where_nothing_else_is_written() {
    for (all, one) in [(1, 1), (2, 1), (5, 3), (10_000, 5_000)] {
        let config = parse(&format!("{GOOD}[limits]\nconnections_max = {all}\n")).unwrap();
        assert_eq!(config.limits.connections_per_peer_max, one, "of {all}");
    }
}

#[test]
fn a_restart_socket_is_in_the_state_directory_or_in_one_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.toml");
    const TOKEN: &str = "join_token_file = \"token\"";
    let restart = |identity: &str, restart: &str| {
        let text = GOOD.replacen(TOKEN, identity, 1);
        Config::parse(&file, &format!("{text}[restart]\n{restart}\n")).map(|config| config.restart)
    };
    let there = restart(TOKEN, "socket = \"restart.sock\"\nready_within = \"5s\"").unwrap().unwrap();
    assert_eq!(there.socket, dir.path().join("restart.sock"));
    assert_eq!(there.ready_within, Duration::from_secs(5));
    let kept = restart("state_dir = \"state\"", "socket = \"state/restart.sock\"").unwrap().unwrap();
    assert_eq!(kept.ready_within, READY_WITHIN_DEFAULT);
    assert_eq!(restart(TOKEN, "").unwrap(), None);

    let refused = |identity: &str, text: &str| restart(identity, text).unwrap_err().to_string();
    let line = GOOD.lines().count() + 2;
    let missing = refused(TOKEN, "socket = \"state/restart.sock\"");
    assert_says(
        &missing,
        &[&format!("sidecar.toml:{line}:"), "restart.socket", "\"state/restart.sock\"", "directory"],
    );
    let long = "x".repeat(RESTART_SOCKET_BYTES_MAX);
    let message = refused(TOKEN, &format!("socket = \"{long}\""));
    assert_says(&message, &[&format!("sidecar.toml:{line}:"), "restart.socket", "at most 103 bytes"]);
    let fits = "x".repeat(RESTART_SOCKET_BYTES_MAX - dir.path().as_os_str().len() - 1);
    assert!(restart(TOKEN, &format!("socket = \"{fits}\"")).is_ok());
    assert_says(&refused(TOKEN, "socket = \"..\""), &["must name a file"]);
    assert_says(
        &refused(TOKEN, "socket = \"s\"\nready_within = \"0s\""),
        &["restart.ready_within", "from 100ms to 10m"],
    );
}

#[test]
fn a_connection_may_get_as_old_as_it_is_written() {
    for (text, age) in [
        ("off", MaxAge::Off),
        ("svid", MaxAge::Svid),
        ("1s", MaxAge::After(Duration::from_secs(1))),
        ("720h", MaxAge::After(LASTING_MAX)),
    ] {
        let config = parse(&format!("{GOOD}[limits]\nmax_connection_age = \"{text}\"\n")).unwrap();
        assert_eq!(config.limits.max_connection_age, age);
        assert_eq!(age.show(), text);
    }
}

#[test]
fn what_compression_may_add_to_the_headers_of_a_peer_has_a_range() {
    let http = |bytes: usize| parse(&format!("{GOOD}[http]\nexpanded_bytes_per_peer_max = {bytes}\n"));
    for bytes in [1, EXPANDED_BYTES_PER_PEER_MAX] {
        assert_eq!(http(bytes).unwrap().http.expanded_bytes_per_peer_max, bytes);
    }
    for bytes in [0, EXPANDED_BYTES_PER_PEER_MAX + 1] {
        let message = refusal(&format!("{GOOD}[http]\nexpanded_bytes_per_peer_max = {bytes}\n"));
        assert_says(&message, &["http.expanded_bytes_per_peer_max", "from 1 to 1073741824"]);
    }
}
