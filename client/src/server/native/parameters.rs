//! Connection parameters of libpq, as far as they are handled here.

use std::collections::HashMap;
use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libpq::Connection;
use libpq::connection::Info;

/// Parameters that are read here, or that make no difference once libpq has found the server.
const HANDLED: [&str; 36] = [
    "application_name",
    "authtype",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcompression",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "tty",
    "user",
    "sslnegotiation",
];

/// How a client verifies the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Not at all: there is no root certificate.
    None,
    /// It must lead to a root certificate.
    Authority(PathBuf),
    /// It must also be one for the host.
    Host(PathBuf),
}

/// Use of SCRAM's channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Where the server offers it.
    Prefer,
    /// It is needed.
    Require,
    /// Never.
    Disable,
}

/// Version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of the file system.
    Unix(PathBuf),
}

/// All that a session needs.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// What is connected to.
    pub address: Address,
    /// Whether the connection has TLS.
    pub has_tls: bool,
    /// The name that the certificate has to have; may be an address.
    pub host: String,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// As the user or a password file has it.
    pub password: Option<String>,
    /// What was set by the user.
    pub settings: Settings,
}

/// What does not depend on the server that libpq has found.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the program.
    pub application_name: Option<String>,
    /// Settings of the session.
    pub options: Option<String>,
    /// How the server is verified.
    pub verification: Verification,
    /// Certificate and key of the client.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the host is named in the clear.
    pub names_host: bool,
    /// Oldest and newest version of TLS.
    pub versions: (Version, Option<Version>),
    /// Use of channel binding.
    pub channel_binding: ChannelBinding,
    /// Longest time to connect.
    pub connect_timeout: Option<Duration>,
    /// Times of TCP by which a dead connection is noticed; `None` for no keepalives.
    pub keepalives: Option<Keepalives>,
    /// Milliseconds after which data that was not acknowledged ends the connection.
    pub user_timeout: Option<u32>,
}

/// TCP keepalives; `None` is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalives {
    /// Time until the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Number of probes.
    pub count: Option<u32>,
}

impl Parameters {
    /// The parameters of a session that libpq has opened, or `None` if another like it is left to libpq:
    /// with encryption by GSSAPI, or with a parameter that is not handled here.
    pub fn of(connection: &Connection) -> Option<Self> {
        if connection.gss_enc_in_use() {
            return None;
        }
        let settings = connection.info().ok()?;
        let host = connection.host().ok()?;
        let address = Address::of(
            &host,
            &connection.hostaddr().ok()?,
            &connection.port().ok()?,
        )?;
        Some(Self {
            address,
            has_tls: connection.ssl_in_use(),
            host,
            user: connection.user().ok()?,
            database: connection.db().ok()?,
            // It may come from a password file.
            password: connection.pass().ok()?.filter(|text| !text.is_empty()),
            settings: Settings::read(&settings, home().as_deref(), &Path::is_file)?,
        })
    }
}

impl Address {
    /// From what libpq says about a connection. A socket in the abstract name space has no path.
    fn of(host: &str, address: &str, port: &str) -> Option<Self> {
        let port: u16 = port.parse().ok()?;
        if address.is_empty() && host.starts_with('/') {
            return Some(Self::Unix(Path::new(host).join(format!(".s.PGSQL.{port}"))));
        }
        let address: IpAddr = address.parse().ok()?;
        Some(Self::Tcp(SocketAddr::new(address, port)))
    }
}

impl Settings {
    fn read(
        settings: &HashMap<String, Info>,
        home: Option<&Path>,
        exists: &dyn Fn(&Path) -> bool,
    ) -> Option<Self> {
        let given = |keyword: &str| {
            let setting = settings.get(keyword)?;
            setting.val.as_deref().filter(|value| !value.is_empty())
        };
        let is_handled = |setting: &Info| {
            let value = setting.val.as_deref().unwrap_or_default();
            let is_default = value.is_empty() || setting.compiled.as_deref() == Some(value);
            is_default || HANDLED.contains(&setting.keyword.as_str())
        };
        if !settings.values().all(is_handled) {
            return None;
        }
        if given("sslnegotiation").is_some_and(|value| value != "postgres")
            || given("sslcompression").is_some_and(|value| value != "0")
        {
            return None;
        }
        let directory = home?.join(".postgresql");
        let file = |keyword: &str, default: &str| match given(keyword) {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(directory.join(default)).filter(|path| exists(path)),
        };
        if exists(&directory.join("root.crl")) {
            return None;
        }
        let root = file("sslrootcert", "root.crt");
        if root.as_ref().is_some_and(|root| !exists(root)) {
            // The system's certificates, or an error.
            return None;
        }
        let verification = match (given("sslmode"), root) {
            (Some("verify-full"), Some(root)) => Verification::Host(root),
            (Some("verify-full" | "verify-ca"), None) => return None,
            (_, Some(root)) => Verification::Authority(root),
            (_, None) => Verification::None,
        };
        let certificate = match file("sslcert", "postgresql.crt") {
            None => None,
            Some(certificate) => {
                let key = file("sslkey", "postgresql.key")?;
                // An engine's name has a colon.
                if !exists(&certificate) || !exists(&key) {
                    return None;
                }
                Some((certificate, key))
            }
        };
        let version = |value: &str| match value {
            "TLSv1.2" => Some(Version::Tls12),
            "TLSv1.3" => Some(Version::Tls13),
            _ => None,
        };
        let oldest = match given("ssl_min_protocol_version") {
            None => Version::Tls12,
            Some(value) => version(value)?,
        };
        let newest = match given("ssl_max_protocol_version") {
            None => None,
            Some(value) => Some(version(value)?),
        };
        let channel_binding = match given("channel_binding") {
            None | Some("prefer") => ChannelBinding::Prefer,
            Some("require") => ChannelBinding::Require,
            Some("disable") => ChannelBinding::Disable,
            Some(_) => return None,
        };
        let number = |keyword: &str| -> Option<u32> {
            let number = given(keyword)?.trim().parse().ok()?;
            Some(number).filter(|&number| number > 0)
        };
        let seconds = |keyword: &str| {
            let seconds = number(keyword)?;
            Some(Duration::from_secs(seconds.into()))
        };
        let keepalives = (given("keepalives") != Some("0")).then(|| Keepalives {
            idle: seconds("keepalives_idle"),
            interval: seconds("keepalives_interval"),
            count: number("keepalives_count"),
        });
        Some(Self {
            application_name: given("application_name")
                .or_else(|| given("fallback_application_name"))
                .map(str::to_owned),
            options: given("options").map(str::to_owned),
            verification,
            certificate,
            names_host: given("sslsni") != Some("0"),
            versions: (oldest, newest),
            channel_binding,
            connect_timeout: seconds("connect_timeout"),
            keepalives,
            user_timeout: number("tcp_user_timeout"),
        })
    }
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Reads parameters where only the named files exist below /home/.postgresql.
    fn read(values: &[(&str, &str)], files: &[&str]) -> Option<Settings> {
        let settings = values.iter().map(|(keyword, value)| {
            let info = Info {
                keyword: (*keyword).to_owned(),
                val: Some((*value).to_owned()),
                compiled: (*keyword == "sslcertmode").then(|| "allow".to_owned()),
                ..Info::default()
            };
            ((*keyword).to_owned(), info)
        });
        let exists = |path: &Path| {
            let below = path.strip_prefix("/home/.postgresql");
            below.is_ok_and(|name| files.iter().any(|file| name == Path::new(file)))
        };
        Settings::read(&settings.collect(), Some(Path::new("/home")), &exists)
    }

    #[test]
    fn what_is_not_handled_is_left_to_libpq() {
        assert!(read(&[("sslmode", "require")], &[]).is_some());
        assert!(read(&[("sslcertmode", "allow")], &[]).is_some());
        for (keyword, value) in [
            ("sslcrl", "/some/file"),
            ("sslpassword", "secret"),
            ("require_auth", "scram-sha-256"),
            ("sslnegotiation", "direct"),
            ("ssl_min_protocol_version", "TLSv1"),
            ("requirepeer", "postgres"),
            ("sslrootcert", "system"),
            ("sslkey", "engine:key"),
            ("sslcertmode", "require"),
            ("some_parameter_of_the_future", "1"),
            ("replication", "true"),
            ("client_encoding", "LATIN1"),
        ] {
            let files = ["postgresql.crt"];
            assert!(read(&[(keyword, value)], &files).is_none(), "{keyword}");
        }
        assert!(read(&[], &["root.crl"]).is_none());
        assert!(read(&[("sslmode", "verify-full")], &[]).is_none());
        assert!(read(&[("sslmode", "verify-ca")], &[]).is_none());
    }

    #[test]
    fn a_socket_is_found_by_its_folder() {
        let unix = Address::Unix(PathBuf::from("/run/pg/.s.PGSQL.5433"));
        assert_eq!(Address::of("/run/pg", "", "5433"), Some(unix));
        let tcp = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 5432)));
        assert_eq!(
            Address::of("/run/pg", "127.0.0.1", "5432"),
            Some(tcp.clone())
        );
        assert_eq!(Address::of("localhost", "127.0.0.1", "5432"), Some(tcp));
        for (host, address, port) in [("@pg", "", "5432"), ("h", "", "5432"), ("/run", "", "x")] {
            assert_eq!(Address::of(host, address, port), None, "{host}");
        }
    }

    /// As libpq has it, a root certificate is used whatever the mode.
    #[test]
    fn a_root_certificate_is_always_used() {
        let root = PathBuf::from("/home/.postgresql/root.crt");
        for (mode, expected) in [
            ("prefer", Verification::Authority(root.clone())),
            ("require", Verification::Authority(root.clone())),
            ("verify-ca", Verification::Authority(root.clone())),
            ("verify-full", Verification::Host(root)),
        ] {
            let parameters = read(&[("sslmode", mode)], &["root.crt"]).unwrap();
            assert_eq!(parameters.verification, expected, "{mode}");
        }
        let without = read(&[("sslmode", "require")], &[]).unwrap();
        assert_eq!(without.verification, Verification::None);
    }

    #[test]
    fn values_are_read() {
        let parameters = read(
            &[
                ("fallback_application_name", "program"),
                ("keepalives_idle", "60"),
                ("keepalives_count", "6"),
                ("tcp_user_timeout", "120000"),
                ("channel_binding", "require"),
                ("sslsni", "0"),
                ("ssl_max_protocol_version", "TLSv1.2"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(parameters.application_name.as_deref(), Some("program"));
        let keepalives = parameters.keepalives.unwrap();
        assert_eq!(keepalives.idle, Some(Duration::from_secs(60)));
        assert_eq!((keepalives.interval, keepalives.count), (None, Some(6)));
        assert_eq!(parameters.user_timeout, Some(120_000));
        assert_eq!(parameters.channel_binding, ChannelBinding::Require);
        assert!(!parameters.names_host);
        assert_eq!(parameters.versions, (Version::Tls12, Some(Version::Tls12)));
        assert_eq!(read(&[("keepalives", "0")], &[]).unwrap().keepalives, None);
    }
}
