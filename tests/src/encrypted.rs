//! Cluster with TLS connections and its own certificates.

use std::path::Path;

use crate::program::{command, has_tls, succeed};
use crate::scratch::Folder;
use crate::server::Cluster;

/// Password of every role that has one.
pub const PASSWORD: &str = "correct horse";

/// Cluster that listens on 127.0.0.1 as `localhost`, with the certificates of its clients.
pub struct Encrypted {
    /// Running cluster with the extension installed.
    pub cluster: Cluster,
    certificates: Folder,
}

impl Encrypted {
    /// Starts the cluster; [`None`] if the server has no TLS. Role `certified` needs a certificate in its name, `double` a certificate
    /// and a password, and `backup` a password. Every connection needs TLS, except that of
    /// `postgres` over the socket.
    pub fn start() -> Option<Self> {
        if !has_tls() {
            return None;
        }
        let certificates = Folder::new("k");
        make_authority(&certificates, "root");
        make_authority(&certificates, "stranger");
        for (name, subject) in [
            ("server", "localhost"),
            ("certified", "certified"),
            ("double", "double"),
        ] {
            make_certificate(&certificates, name, subject);
        }
        let file = |name: &str| certificates.join(name).display().to_string();
        let mut cluster = Cluster::builder()
            .over_tcp()
            .setting("ssl", "on")
            .setting("ssl_ca_file", &file("root.crt"))
            .setting("ssl_cert_file", &file("server.crt"))
            .setting("ssl_key_file", &file("server.key"))
            .create();
        cluster.write_file(
            "pg_hba.conf",
            b"local all postgres trust\nlocal all all scram-sha-256\n\
              hostssl all certified 127.0.0.1/32 cert\n\
              hostssl all double 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n\
              hostssl all backup 127.0.0.1/32 scram-sha-256\n",
        );
        cluster.start();
        cluster.create_extension("postgres");
        cluster.execute(&format!(
            "CREATE ROLE certified LOGIN SUPERUSER;
             CREATE ROLE double LOGIN SUPERUSER PASSWORD '{PASSWORD}';
             CREATE ROLE backup LOGIN SUPERUSER PASSWORD '{PASSWORD}'"
        ));
        Some(Self {
            cluster,
            certificates,
        })
    }

    /// Path of a certificate or key.
    pub fn file(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }

    /// Connection string with the common parameters.
    pub fn string(&self, role: &str, more: &str) -> String {
        let port = self.cluster.port();
        format!("host=localhost port={port} dbname=postgres user={role} {more}")
    }

    /// Connection string parameters for a role's certificate.
    pub fn certificate(&self, role: &str) -> String {
        let (cert, key) = (format!("{role}.crt"), format!("{role}.key"));
        format!("sslcert={} sslkey={}", self.file(&cert), self.file(&key))
    }
}

fn openssl(folder: &Path, args: &[&str]) {
    succeed(command("openssl").args(args).current_dir(folder));
}

/// Creates a key and a self-signed certificate.
fn make_authority(folder: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let subject = format!("/CN={name} authority");
    openssl(
        folder,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ],
    );
}

/// Creates a key and a certificate for a name, signed by the authority `root`.
fn make_certificate(folder: &Path, name: &str, subject: &str) {
    let file = |ending: &str| format!("{name}.{ending}");
    let (key, request, certificate) = (file("key"), file("csr"), file("crt"));
    let subject = format!("/CN={subject}");
    openssl(
        folder,
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ],
    );
    openssl(
        folder,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "root.crt",
            "-CAkey",
            "root.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            &certificate,
        ],
    );
}
