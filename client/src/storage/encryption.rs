//! Encryption of the files of a backup by age (X25519), so that `age -d` reads each.
//!
//! A passphrase is slow by design, and age allows it for single files. So a backup that is encrypted to a
//! passphrase has a key of its own, which the file `key.age` holds, encrypted by the passphrase.

use std::fmt;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::str::FromStr as _;
use std::sync::Arc;

use age::secrecy::{ExposeSecret as _, SecretString};
use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use anyhow::{Context, Result, anyhow, ensure};
use backup_compression::Output;
use sha2::{Digest as _, Sha256};

use crate::cli::option_values::PASSPHRASE;
use crate::storage::source::Source;

/// Suffix of the names of encrypted files.
pub const SUFFIX: &str = ".age";
/// File with the key of a backup that is encrypted to a passphrase.
pub const KEY_FILE: &str = "key.age";
/// Beginning of an X25519 recipient.
const X25519: &str = "age1";

/// Those who can decrypt a backup.
#[derive(Clone)]
pub struct Recipients(Arc<Keys>);

struct Keys {
    recipients: Vec<x25519::Recipient>,
    /// Key of the backup, if it is encrypted to a passphrase.
    key: Option<BackupKey>,
    /// Content of the key file, where this program has made the key.
    key_file: Option<Vec<u8>>,
}

/// Key of a backup that is encrypted to a passphrase.
#[derive(Clone)]
pub struct BackupKey(Arc<x25519::Identity>);

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipients({})", self.0.recipients.len())
    }
}

impl Recipients {
    /// Reads recipients: each is an X25519 recipient, a file with such, or `passphrase:FILE`. [`None`] for no
    /// encryption. The key for a passphrase is made, unless the backup has one already.
    ///
    /// # Errors
    /// An error for a malformed recipient and for a file that cannot be read.
    pub fn read(texts: &[String], known: Option<BackupKey>) -> Result<Option<Self>> {
        let mut recipients = Vec::new();
        let mut passphrase = None;
        for text in texts {
            if let Some(file) = text.strip_prefix(PASSPHRASE) {
                ensure!(
                    passphrase.is_none(),
                    "a backup can be encrypted to one passphrase only"
                );
                passphrase = Some(read_passphrase(file)?);
            } else if text.starts_with(X25519) {
                let parsed = parse_recipient(text);
                recipients.push(parsed.with_context(|| format!("recipient \"{text}\""))?);
            } else {
                recipients.extend(read_recipients(text)?);
            }
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let (key, key_file) = match (passphrase, known) {
            (Some(_), Some(known)) => (Some(known), None),
            (Some(passphrase), None) => {
                let key = x25519::Identity::generate();
                let key_file = encrypt_key(&key, passphrase)?;
                (Some(BackupKey(Arc::new(key))), Some(key_file))
            }
            (None, _) => (None, None),
        };
        recipients.extend(key.iter().map(|key| key.0.to_public()));
        Ok(Some(Self(Arc::new(Keys {
            recipients,
            key,
            key_file,
        }))))
    }

    /// SHA-256 of the recipients, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let recipients = self.0.recipients.iter();
        let mut texts: Vec<_> = recipients.map(ToString::to_string).collect();
        texts.sort();
        let digest = Sha256::digest(texts.join("\n"));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The same recipients and another one.
    ///
    /// # Errors
    /// An error for a malformed recipient.
    pub fn with(&self, other: &str) -> Result<Self> {
        let mut recipients = self.0.recipients.clone();
        recipients.push(parse_recipient(other)?);
        Ok(Self(Arc::new(Keys {
            recipients,
            key: self.0.key.clone(),
            key_file: None,
        })))
    }

    /// Content of the key file, if the backup has one.
    pub fn key_file(&self) -> Option<&[u8]> {
        self.0.key_file.as_deref()
    }

    /// Encrypts a small file.
    ///
    /// # Errors
    /// Errors of the library.
    pub fn encrypt(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut encrypter = Encrypter::new(self)?;
        encrypter.write(bytes)?;
        let mut encrypted = Vec::new();
        encrypter.finish(|bytes| {
            encrypted.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(encrypted)
    }
}

fn encrypt_key(key: &x25519::Identity, passphrase: SecretString) -> Result<Vec<u8>> {
    let encrypt = || {
        let mut output = Encryptor::with_user_passphrase(passphrase).wrap_output(Vec::new())?;
        output.write_all(key.to_string().expose_secret().as_bytes())?;
        output.finish()
    };
    encrypt().context("could not encrypt the key of the backup")
}

/// The text may be a secret, and is not in the error.
fn parse_recipient(text: &str) -> Result<x25519::Recipient> {
    x25519::Recipient::from_str(text)
        .map_err(|error| anyhow!("this is no recipient of age: {error}"))
}

fn read_recipients(file: &str) -> Result<Vec<x25519::Recipient>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("could not read file \"{file}\" with recipients"))?;
    let recipients: Vec<_> = lines(&text)
        .map(|(number, line)| {
            parse_recipient(line).with_context(|| format!("file \"{file}\", line {number}"))
        })
        .collect::<Result<_>>()?;
    ensure!(!recipients.is_empty(), "file \"{file}\" has no recipient");
    Ok(recipients)
}

fn read_passphrase(file: &str) -> Result<SecretString> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("could not read file \"{file}\" with a passphrase"))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(
        !line.is_empty(),
        "the first line of file \"{file}\" has no passphrase"
    );
    Ok(SecretString::from(line.to_owned()))
}

/// Lines that are neither empty nor comments, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim).zip(1..);
    lines
        .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, number)| (number, line))
}

/// Keys that decrypt backups.
#[derive(Clone, Default)]
pub struct Identities {
    keys: Vec<Arc<x25519::Identity>>,
    passphrases: Vec<SecretString>,
    /// The key of the backup, which is among the keys.
    backup_key: Option<BackupKey>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.keys.len())
    }
}

impl Identities {
    /// Reads identities: each is a file with identities of age, or `passphrase:FILE`.
    ///
    /// # Errors
    /// An error for a file that cannot be read or has none.
    pub fn read(texts: &[String]) -> Result<Self> {
        let mut identities = Self::default();
        for text in texts {
            if let Some(file) = text.strip_prefix(PASSPHRASE) {
                identities.passphrases.push(read_passphrase(file)?);
                continue;
            }
            let content = fs::read_to_string(text)
                .with_context(|| format!("could not read file \"{text}\" with identities"))?;
            let before = identities.keys.len();
            for (number, line) in lines(&content) {
                let key = x25519::Identity::from_str(line).map_err(|error| {
                    anyhow!("file \"{text}\" has no identity of age in line {number}: {error}")
                })?;
                identities.keys.push(Arc::new(key));
            }
            ensure!(
                identities.keys.len() > before,
                "file \"{text}\" has no identity"
            );
        }
        Ok(identities)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.passphrases.is_empty()
    }

    /// Whether a key file is of use.
    pub fn have_passphrase(&self) -> bool {
        !self.passphrases.is_empty()
    }

    /// Adds the key of a backup, where one of the passphrases decrypts it.
    ///
    /// # Errors
    /// An error for a damaged file.
    pub fn add_key(&mut self, key_file: &[u8]) -> Result<()> {
        for passphrase in &self.passphrases {
            let identity = scrypt::Identity::new(passphrase.clone());
            let decryptor = Decryptor::new(key_file).context(DAMAGED_KEY)?;
            let identity: &dyn Identity = &identity;
            let Ok(mut reader) = decryptor.decrypt([identity].into_iter()) else {
                continue;
            };
            let mut text = String::new();
            reader.read_to_string(&mut text).context(DAMAGED_KEY)?;
            let key = x25519::Identity::from_str(text.trim())
                .map_err(|error| anyhow!("{DAMAGED_KEY}: {error}"))?;
            self.add(BackupKey(Arc::new(key)));
            return Ok(());
        }
        Ok(())
    }

    /// Adds the key of a backup that this program takes.
    pub fn add_key_of(&mut self, recipients: &Recipients) {
        if let Some(key) = &recipients.0.key {
            self.add(key.clone());
        }
    }

    /// Adds a key that is forgotten with this program, and returns its recipient.
    pub fn add_fleeting_key(&mut self) -> String {
        let key = x25519::Identity::generate();
        let recipient = key.to_public().to_string();
        self.keys.push(Arc::new(key));
        recipient
    }

    fn add(&mut self, key: BackupKey) {
        self.keys.push(Arc::clone(&key.0));
        self.backup_key = Some(key);
    }

    /// The key of the backup, if it is encrypted to a passphrase and was decrypted.
    pub fn backup_key(&self) -> Option<BackupKey> {
        self.backup_key.clone()
    }

    /// Reader of the plain bytes of an encrypted file.
    ///
    /// # Errors
    /// Where no key fits, or the file is none of age.
    pub fn reader(&self, source: Box<dyn Source>) -> io::Result<DecryptedReader> {
        if self.is_empty() {
            return Err(io::Error::other(
                "the file is encrypted\nHINT:  Name the file with the key by --identity.",
            ));
        }
        let keys = self.keys.iter().map(|key| &**key as &dyn Identity);
        let decryptor = Decryptor::new(source).map_err(io::Error::other)?;
        let reader = decryptor.decrypt(keys).map_err(|error| match error {
            DecryptError::NoMatchingKeys => io::Error::other(
                "no identity decrypts the file\n\
                 HINT:  It is encrypted for others. Name the file with another key by --identity.",
            ),
            error => io::Error::other(error),
        })?;
        Ok(DecryptedReader(reader))
    }
}

const DAMAGED_KEY: &str = "could not decrypt \"key.age\"";

/// Reader of the plain bytes of an encrypted file.
pub struct DecryptedReader(StreamReader<Box<dyn Source>>);

impl Read for DecryptedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for DecryptedReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Source for DecryptedReader {
    fn limit(&mut self, _end: u64) {}
}

/// Encrypter of one file. It keeps encrypted bytes until the caller drains them.
pub struct Encrypter {
    writer: StreamWriter<Output>,
    output: Output,
}

const FAILED: &str = "could not encrypt data";

impl Encrypter {
    /// Begins a file.
    ///
    /// # Errors
    /// Errors of the library.
    pub fn new(recipients: &Recipients) -> Result<Self> {
        let output = Output::default();
        let keys = recipients.0.recipients.iter();
        let encryptor = Encryptor::with_recipients(keys.map(|key| key as &dyn Recipient));
        let encryptor = encryptor.map_err(|error| anyhow!("{FAILED}: {error}"))?;
        let writer = encryptor.wrap_output(output.clone()).context(FAILED)?;
        Ok(Self { writer, output })
    }

    /// Encrypts bytes. Their output is kept for [`Encrypter::drain`].
    ///
    /// # Errors
    /// Errors of the library.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).context(FAILED)
    }

    /// Passes the encrypted bytes to `take`.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn drain(&mut self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.output.drain(take)
    }

    /// Ends the file, and passes the encrypted bytes that are left to `take`.
    ///
    /// # Errors
    /// Errors of the library, and those of `take`.
    pub fn finish(self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.writer.finish().context(FAILED)?;
        self.output.drain(take)
    }
}
