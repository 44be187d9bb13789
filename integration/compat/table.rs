//! The table: which client reaches which server, by which exchanges.

/// `protocol` of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Http,
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

const TCP: &[Protocol] = &[Protocol::Tcp];
const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Http];
const HTTP: &[Protocol] = &[Protocol::Http];

/// One program of the suite, with its arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    /// In `servers/`.
    Shell(&'static [&'static str]),
    /// In `clients/python/`, by the interpreter with the packages of `requirements.txt`.
    Python(&'static [&'static str]),
    /// A module (`-m`) of the same packages.
    Module(&'static [&'static str]),
    /// In `clients/node/`.
    Node(&'static [&'static str]),
    /// A subcommand of `clients/go/`.
    Go(&'static [&'static str]),
    /// A subcommand of `clients/java/`.
    Java(&'static [&'static str]),
    /// A subcommand of this program.
    Own(&'static str),
}

impl Script {
    /// Whose runtime it needs, if any.
    pub(crate) fn language(&self) -> Option<&'static str> {
        match self {
            Self::Python(_) | Self::Module(_) => Some("python"),
            Self::Node(_) => Some("node"),
            Self::Go(_) => Some("go"),
            Self::Java(_) => Some("java"),
            Self::Shell(_) | Self::Own(_) => None,
        }
    }
}

/// How a server says that it serves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    /// It accepts connections where the inbound dials it.
    Port,
    /// It accepts connections where the caller dials it.
    Front,
    /// It prints this.
    Line(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) script: Script,
    pub(crate) ready: Ready,
}

/// What a client does through the pair: at once, with pauses, and for long or with much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchanges {
    pub(crate) short: &'static str,
    pub(crate) quiet: &'static str,
    pub(crate) long: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) app: &'static str,
    pub(crate) caller: &'static str,
    pub(crate) protocols: &'static [Protocol],
    /// The app, and what else runs beside it.
    pub(crate) servers: &'static [Server],
    pub(crate) client: Script,
    pub(crate) exchanges: Exchanges,
    /// Programs of the machine, beside those of the runtimes.
    pub(crate) needs: &'static [&'static str],
    /// Lines for both sidecars' configuration.
    pub(crate) settings: &'static str,
    /// How long nothing moves in the quiet exchange, in seconds.
    pub(crate) quiet_seconds: &'static str,
}

const fn app(script: Script) -> Server {
    Server { script, ready: Ready::Port }
}

const fn when(script: Script, line: &'static str) -> Server {
    Server { script, ready: Ready::Line(line) }
}

const fn front(script: Script) -> Server {
    Server { script, ready: Ready::Front }
}

const fn exchanges(short: &'static str, quiet: &'static str, long: &'static str) -> Exchanges {
    Exchanges { short, quiet, long }
}

const WEB: Exchanges = exchanges(
    "GET, HEAD, POST, many at once",
    "an answer that pauses, one that comes late, an idle connection",
    "32 MiB in one body, streamed events",
);
const GRPC: Exchanges = exchanges(
    "unary and all streams, status with trailers, deadline, cancellation",
    "a quiet stream, a late answer, 150 calls at once",
    "1,000 calls, 32 MiB each way",
);

const CURL: Exchanges = exchanges(
    "GET and POST, ten over few connections",
    "an answer that pauses, one that comes late, one taken slowly",
    "16 MiB up and back, Expect: 100-continue",
);
const FILES: Exchanges =
    exchanges("GET, ten over few connections", "a file taken slowly", "16 files of 1 MiB");
const VOLUME: Exchanges = exchanges(
    "GET",
    "1 GiB up, with a pause in the middle (POSTERN_COMPAT_GIB)",
    "1 GiB down (POSTERN_COMPAT_GIB)",
);
const IDLE: Exchanges =
    exchanges("a request on each of them", "all idle, then a request on each", "three more on each");

const PLAIN: Row = Row {
    name: "",
    app: "",
    caller: "",
    protocols: TCP,
    servers: &[],
    client: Script::Own(""),
    exchanges: WEB,
    needs: &[],
    settings: "",
    quiet_seconds: "40",
};
const PAGES: Row = Row { protocols: BOTH, ..PLAIN };
/// A server with gRPC's defaults takes pings only every five minutes while nothing moves, and ends the connection at
/// the third that comes too early: the pause is longer than three of any keepalive in use.
const CALLS: Row = Row { protocols: BOTH, exchanges: GRPC, quiet_seconds: "70", ..PLAIN };

#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    Row { name: "postgresql", app: "PostgreSQL", caller: "psql, psycopg, pg_basebackup, pg_recvlogical, pg_receivewal",
        servers: &[when(Script::Shell(&["postgresql.sh"]), "database system is ready to accept connections")],
        client: Script::Python(&["postgresql.py"]), needs: &["psql"],
        exchanges: exchanges("queries, a pipeline, a cancelled statement", "LISTEN and NOTIFY, a transaction that pauses", "COPY both ways, base backup, logical and physical replication"), ..PLAIN },
    Row { name: "mariadb", app: "MariaDB", caller: "mariadb, PyMySQL, mariadb-dump",
        servers: &[when(Script::Shell(&["mariadb.sh"]), "ready for connections")],
        client: Script::Python(&["mariadb.py"]), needs: &["mariadbd", "mariadb"],
        exchanges: exchanges("queries", "a session that pauses, a long statement", "LOAD DATA, a dump and its return"), ..PLAIN },
    Row { name: "redis", app: "Redis", caller: "redis-cli, redis-py",
        servers: &[app(Script::Shell(&["redis.sh"]))], client: Script::Python(&["redis_.py"]), needs: &["redis-server", "redis-cli"],
        exchanges: exchanges("commands, a value of 1 MiB", "SUBSCRIBE, BLPOP, an idle connection", "pipelines of 10,000, 1,000 published messages"), ..PLAIN },
    Row { name: "memcached", app: "memcached", caller: "pymemcache",
        servers: &[app(Script::Shell(&["memcached.sh"]))], client: Script::Python(&["memcached.py"]), needs: &["memcached"],
        exchanges: exchanges("get, set", "an idle connection", "64 MB of values, 10,000 keys at once"), ..PLAIN },
    Row { name: "rabbitmq", app: "RabbitMQ", caller: "pika (AMQP 0-9-1)",
        servers: &[when(Script::Shell(&["rabbitmq.sh"]), "Server startup complete")], client: Script::Python(&["rabbitmq.py"]), needs: &["rabbitmq-server"],
        exchanges: exchanges("a confirmed message", "a consumer that waits, heartbeats", "3,000 confirmed messages"), ..PLAIN },
    Row { name: "nats", app: "NATS", caller: "nats-py",
        servers: &[app(Script::Shell(&["nats.sh"]))], client: Script::Python(&["nats_.py"]), needs: &["nats-server"],
        exchanges: exchanges("request and reply", "a subscription that waits", "50,000 messages, 50 of 512 KiB"), ..PLAIN },
    Row { name: "kafka-python", app: "Apache Kafka", caller: "kafka-python",
        servers: &[app(Script::Java(&["kafka-app"]))], client: Script::Python(&["kafka_.py"]),
        exchanges: exchanges("a record there and back", "long polls without a record", "20,000 records in three partitions"), ..PLAIN },
    Row { name: "kafka-java", app: "Apache Kafka", caller: "kafka-clients (Java)",
        servers: &[app(Script::Java(&["kafka-app"]))], client: Script::Java(&["kafka-caller"]),
        exchanges: exchanges("a record there and back", "long polls without a record", "30,000 records in three partitions"), ..PLAIN },
    Row { name: "smtp", app: "aiosmtpd (SMTP)", caller: "smtplib, curl",
        servers: &[app(Script::Python(&["smtp_app.py"]))], client: Script::Python(&["smtp.py"]), needs: &["openssl", "curl"],
        exchanges: exchanges("the server's greeting first, STARTTLS, a message", "NOOP after a pause", "messages of 8 MiB"), ..PLAIN },
    Row { name: "ssh", app: "OpenSSH", caller: "ssh, sftp",
        servers: &[app(Script::Shell(&["sshd.sh"]))], client: Script::Python(&["ssh.py"]), needs: &["/usr/sbin/sshd", "ssh", "sftp"],
        exchanges: exchanges("a command", "a command that pauses", "32 MiB both ways at once, sftp"), ..PLAIN },

    Row { name: "grpc-python-python", app: "grpcio", caller: "grpcio",
        servers: &[app(Script::Python(&["grpc_app.py"]))], client: Script::Python(&["grpc_client.py"]), ..CALLS },
    Row { name: "grpc-go-go", app: "grpc-go", caller: "grpc-go",
        servers: &[app(Script::Go(&["grpc-app"]))], client: Script::Go(&["grpc-caller"]), ..CALLS },
    Row { name: "grpc-java-java", app: "grpc-java", caller: "grpc-java",
        servers: &[app(Script::Java(&["grpc-app"]))], client: Script::Java(&["grpc-caller"]), ..CALLS },
    Row { name: "grpc-tonic-tonic", app: "tonic", caller: "tonic",
        servers: &[app(Script::Own("tonic-app"))], client: Script::Own("tonic-caller"), ..CALLS },
    Row { name: "grpc-python-go", app: "grpc-go", caller: "grpcio", protocols: HTTP,
        servers: &[app(Script::Go(&["grpc-app"]))], client: Script::Python(&["grpc_client.py"]), ..CALLS },
    Row { name: "grpc-go-java", app: "grpc-java", caller: "grpc-go", protocols: HTTP,
        servers: &[app(Script::Java(&["grpc-app"]))], client: Script::Go(&["grpc-caller"]), ..CALLS },
    Row { name: "grpc-java-tonic", app: "tonic", caller: "grpc-java", protocols: HTTP,
        servers: &[app(Script::Own("tonic-app"))], client: Script::Java(&["grpc-caller"]), ..CALLS },
    Row { name: "grpc-tonic-python", app: "grpcio", caller: "tonic", protocols: HTTP,
        servers: &[app(Script::Python(&["grpc_app.py"]))], client: Script::Own("tonic-caller"), ..CALLS },

    Row { name: "grpc-max-streams", app: "grpc-go with 8 streams a connection", caller: "grpc-go",
        servers: &[app(Script::Go(&["grpc-app", "8"]))], client: Script::Go(&["grpc-caller"]), ..CALLS },
    Row { name: "grpc-retirement", app: "grpc-go, MaxConnectionAge 2 s", caller: "grpc-go",
        servers: &[app(Script::Go(&["retiring-app"]))], client: Script::Go(&["retiring-caller"]),
        exchanges: exchanges("one call", "22 callers, then a pause", "22 callers for 30 s while connections retire: no call fails"), ..CALLS },
    Row { name: "grpc-restarts", app: "grpc-go, GracefulStop every 3 s", caller: "grpc-go", protocols: HTTP,
        servers: &[app(Script::Go(&["retiring-app", "restarts"]))], client: Script::Go(&["retiring-caller", "restarts"]),
        exchanges: exchanges("one call", "22 callers, then a pause", "22 callers for 30 s: UNAVAILABLE while the app is away, nothing else"), ..CALLS },
    Row { name: "nginx-in-front-grpc", app: "grpc-go", caller: "grpc-go by nginx (grpc_pass)",
        servers: &[app(Script::Go(&["grpc-app"])), front(Script::Shell(&["nginx-front-grpc.sh"]))], client: Script::Go(&["grpc-caller"]), needs: &["nginx"], ..CALLS },
    Row { name: "haproxy-in-front-grpc", app: "grpc-go", caller: "grpc-go by HAProxy (h2)",
        servers: &[app(Script::Go(&["grpc-app"])), front(Script::Shell(&["haproxy-front.sh", "h2"]))], client: Script::Go(&["grpc-caller", "by-haproxy"]), needs: &["haproxy"], exchanges: exchanges("unary and all streams, status with trailers, deadline", GRPC.quiet, GRPC.long), ..CALLS },

    Row { name: "node-http", app: "Node http", caller: "Node http, fetch",
        servers: &[app(Script::Node(&["http-app.mjs"]))], client: Script::Node(&["http-caller.mjs"]), ..PAGES },
    Row { name: "node-http2", app: "Node http2", caller: "Node http2",
        servers: &[app(Script::Node(&["http-app.mjs", "http2"]))], client: Script::Node(&["http2-caller.mjs"]), ..PAGES },
    Row { name: "node-http-to-http2", app: "Node http2", caller: "Node http", protocols: HTTP,
        servers: &[app(Script::Node(&["http-app.mjs", "http2"]))], client: Script::Node(&["http-caller.mjs"]), ..PAGES },
    Row { name: "node-ws", app: "Node ws", caller: "Node ws",
        servers: &[app(Script::Node(&["http-app.mjs"]))], client: Script::Node(&["ws-caller.mjs"]),
        exchanges: exchanges("20 sockets, 1,000 messages, permessage-deflate", "a quiet socket, ping and pong", "messages of 8 MiB, 5,000 small ones"), ..PAGES },
    Row { name: "go-http", app: "Go net/http", caller: "Go net/http, gorilla/websocket",
        servers: &[app(Script::Go(&["http-app"]))], client: Script::Go(&["http-caller"]),
        exchanges: exchanges("100 GETs at once, trailers both ways, 103 Early Hints, WebSocket", "an answer that pauses, one that comes late, an idle connection, a quiet WebSocket", "32 MiB read while they are sent, server-sent events"), ..PAGES },
    Row { name: "go-h2c", app: "Go net/http with h2c", caller: "Go http2",
        servers: &[app(Script::Go(&["http-app", "h2c"]))], client: Script::Go(&["http-caller", "h2c"]), ..PAGES },
    Row { name: "go-http-to-h2c-only", app: "Go net/http, HTTP/2 only", caller: "Go net/http", protocols: HTTP,
        servers: &[app(Script::Go(&["http-app", "h2c-only"]))], client: Script::Go(&["http-caller", "no-websocket"]), ..PAGES },
    Row { name: "java-http1", app: "JDK HttpServer", caller: "Java HttpClient (1.1)",
        servers: &[app(Script::Java(&["http-app"]))], client: Script::Java(&["http-caller", "1.1"]), ..PAGES },
    Row { name: "java-upgrade-h2c", app: "JDK HttpServer", caller: "Java HttpClient (Upgrade: h2c)",
        servers: &[app(Script::Java(&["http-app"]))], client: Script::Java(&["http-caller", "2"]), ..PAGES },
    Row { name: "java-upgrade-to-go", app: "Go net/http with h2c", caller: "Java HttpClient (Upgrade: h2c)",
        servers: &[app(Script::Go(&["http-app", "h2c"]))], client: Script::Java(&["http-caller", "2"]), ..PAGES },
    Row { name: "requests-gunicorn", app: "gunicorn (WSGI)", caller: "requests",
        servers: &[app(Script::Module(&["gunicorn", "--bind", "127.0.0.1:APP_PORT", "--worker-class", "gthread", "--threads", "16", "--no-control-socket", "wsgi_app:app"]))],
        client: Script::Python(&["with_requests.py"]), ..PAGES },
    Row { name: "aiohttp", app: "aiohttp", caller: "aiohttp, with WebSocket",
        servers: &[app(Script::Python(&["aiohttp_app.py"]))], client: Script::Python(&["with_aiohttp.py"]), ..PAGES },
    Row { name: "httpx-uvicorn", app: "uvicorn (ASGI)", caller: "httpx, server-sent events",
        servers: &[app(Script::Module(&["uvicorn", "--host", "127.0.0.1", "--port", "APP_PORT", "asgi_app:app"]))],
        client: Script::Python(&["with_httpx.py"]), exchanges: exchanges("100 GETs at once, events", "events 40 s apart, a late answer", "300 events, 32 MiB down"), ..PAGES },
    Row { name: "httpx-http2-uvicorn", app: "uvicorn (HTTP/1.1 only)", caller: "httpx (HTTP/2)", protocols: HTTP,
        servers: &[app(Script::Module(&["uvicorn", "--host", "127.0.0.1", "--port", "APP_PORT", "asgi_app:app"]))],
        client: Script::Python(&["with_httpx.py", "http2"]), exchanges: exchanges("100 GETs at once, events", "events 40 s apart, a late answer", "300 events, 32 MiB down"), ..PAGES },
    Row { name: "curl-go", app: "Go net/http with h2c", caller: "curl --http1.0, --http1.1, --http2, --http2-prior-knowledge",
        servers: &[app(Script::Go(&["http-app", "h2c"]))], client: Script::Python(&["with_curl.py", "1.0", "1.1", "upgrade", "2"]), needs: &["curl"], exchanges: CURL, ..PAGES },
    Row { name: "curl-aiohttp", app: "aiohttp (HTTP/1.1 only)", caller: "curl --http1.0, --http1.1, --http2, --http2-prior-knowledge", protocols: HTTP,
        servers: &[app(Script::Python(&["aiohttp_app.py"]))], client: Script::Python(&["with_curl.py", "1.0", "1.1", "upgrade", "2"]), needs: &["curl"], exchanges: CURL, ..PAGES },
    Row { name: "curl-nginx", app: "nginx", caller: "curl --http1.0, --http1.1, --http2",
        servers: &[app(Script::Shell(&["nginx-app.sh"]))], client: Script::Python(&["with_curl.py", "static", "1.0", "1.1", "upgrade"]), needs: &["nginx", "curl"], exchanges: FILES, ..PAGES },
    Row { name: "curl-haproxy", app: "HAProxy", caller: "curl --http1.0, --http1.1, --http2, --http2-prior-knowledge",
        servers: &[app(Script::Shell(&["haproxy-app.sh"]))], client: Script::Python(&["with_curl.py", "static", "1.0", "1.1", "upgrade", "2"]), needs: &["haproxy", "curl"], exchanges: FILES, ..PAGES },
    Row { name: "nginx-in-front", app: "aiohttp", caller: "aiohttp by nginx, with WebSocket",
        servers: &[app(Script::Python(&["aiohttp_app.py"])), front(Script::Shell(&["nginx-front.sh"]))], client: Script::Python(&["with_aiohttp.py", "half-duplex"]), needs: &["nginx"], ..PAGES },
    Row { name: "haproxy-in-front", app: "aiohttp", caller: "aiohttp by HAProxy, with WebSocket",
        servers: &[app(Script::Python(&["aiohttp_app.py"])), front(Script::Shell(&["haproxy-front.sh", "h1"]))], client: Script::Python(&["with_aiohttp.py"]), needs: &["haproxy"], ..PAGES },
    Row { name: "haproxy-in-front-h2", app: "aiohttp (HTTP/1.1 only)", caller: "curl by HAProxy (h2)", protocols: HTTP,
        servers: &[app(Script::Python(&["aiohttp_app.py"])), front(Script::Shell(&["haproxy-front.sh", "h2"]))], client: Script::Python(&["with_curl.py", "1.1", "2"]), needs: &["haproxy", "curl"], exchanges: CURL, ..PAGES },
    Row { name: "webdav", app: "WsgiDAV", caller: "requests",
        servers: &[app(Script::Python(&["webdav_app.py"]))], client: Script::Python(&["webdav.py"]),
        exchanges: exchanges("OPTIONS, MKCOL, PUT, COPY, MOVE, PROPFIND, PROPPATCH, DELETE", "LOCK, then If and UNLOCK", "32 MiB there and back, a range"), ..PAGES },
    Row { name: "upgrades", app: "a raw HTTP/1.1 app", caller: "raw sockets", protocols: HTTP,
        servers: &[app(Script::Python(&["upgrade_app.py"]))], client: Script::Python(&["upgrades.py"]),
        exchanges: exchanges("offers of h2c, TLS/1.2 and lists are ignored; 426", "an upgraded connection that pauses", "Upgrade: tcp and SPDY/3.1 with a body, then 1 MiB each way"), ..PAGES },
    Row { name: "volume-tcp", app: "Go", caller: "Go, one TCP connection",
        servers: &[app(Script::Go(&["pipe-app"]))], client: Script::Go(&["pipe-caller"]),
        exchanges: exchanges("1,000 bytes each way, half-close", "a pause before the half-close", "1 GiB down, 1 GiB up (POSTERN_COMPAT_GIB)"), ..PLAIN },
    Row { name: "volume-http1", app: "Go net/http", caller: "Go net/http", protocols: HTTP,
        servers: &[app(Script::Go(&["http-app"]))], client: Script::Go(&["volume-caller"]), exchanges: VOLUME, ..PAGES },
    Row { name: "volume-http2", app: "Go net/http with h2c", caller: "Go http2", protocols: HTTP,
        servers: &[app(Script::Go(&["http-app", "h2c"]))], client: Script::Go(&["volume-caller", "h2c"]), exchanges: VOLUME, ..PAGES },
    Row { name: "idle-9800-http", app: "Go net/http", caller: "9,800 keep-alives of HTTP/1.1", protocols: HTTP,
        servers: &[app(Script::Go(&["http-app"]))], client: Script::Go(&["idle-caller", "9800", "http"]), exchanges: IDLE, settings: "[http]\nidle_timeout = \"1h\"\n", ..PAGES },
    Row { name: "idle-4900-tcp", app: "Go", caller: "4,900 TCP connections",
        servers: &[app(Script::Go(&["idle-app"]))], client: Script::Go(&["idle-caller", "4900", "tcp"]), exchanges: IDLE, ..PLAIN },
];
